package kernel

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/plan"
)

const (
	nameLimit  = 15 // IFNAMSIZ without the final zero
	leastMTU   = 68
	largestMTU = 65535
)

func (f *Fake) doLink(s *fakeSpace, verb Verb, want plan.Link) error {
	have, exists := s.link(want.Name)
	if verb == Delete {
		if exists {
			f.dropLink(s, have)
		}
		return nil
	}
	if want.Name == "" || len(want.Name) > nameLimit || want.MTU < leastMTU || want.MTU > largestMTU {
		return fmt.Errorf("device %q mtu %d: %w", want.Name, want.MTU, syscall.EINVAL)
	}
	if err := s.refusePort(want); err != nil {
		return err
	}
	if exists && (have.Kind != want.Kind || have.Peer != want.Peer || have.VXLAN != want.VXLAN) {
		f.dropLink(s, have)
		exists = false
	}
	if !exists {
		if err := f.makeLink(s, want); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Name == want.Name })
	want.Announced = false // no kernel holds that
	s.Links[i] = want
	return nil
}

// refusePort says what a kernel would to a port of what is no bridge.
func (s *fakeSpace) refusePort(want plan.Link) error {
	if want.Master == "" {
		if want.Isolated {
			return fmt.Errorf("device %s isolated: %w", want.Name, syscall.EINVAL)
		}
		return nil
	}
	if err := s.needs(want.Master); err != nil {
		return err
	}
	if master, _ := s.link(want.Master); master.Kind != plan.LinkBridge {
		return fmt.Errorf("master %s: %w", want.Master, syscall.EOPNOTSUPP)
	}
	if want.Kind == plan.LinkBridge {
		return fmt.Errorf("bridge %s on a bridge: %w", want.Name, syscall.ELOOP)
	}
	return nil
}

func (f *Fake) makeLink(s *fakeSpace, want plan.Link) error {
	if want.Kind == plan.LinkVXLAN {
		for _, other := range f.spaces {
			for _, l := range other.Links {
				// One VNI and port exists once per namespace that devices are made in: the host.
				if l.Kind == plan.LinkVXLAN && l.VXLAN.VNI == want.VXLAN.VNI && l.VXLAN.Port == want.VXLAN.Port {
					return fmt.Errorf("vni %d: %w", want.VXLAN.VNI, syscall.EEXIST)
				}
			}
		}
		s.appear(want)
		return nil
	}
	if want.Kind == plan.LinkBridge {
		s.appear(want)
		return nil
	}
	far := f.spaces[want.Peer.Sandbox]
	if far == nil {
		return fmt.Errorf("other end: %w", errNoSandbox)
	}
	if earlier, taken := far.link(want.Peer.Link); taken {
		f.dropLink(far, earlier)
	}
	s.appear(want)
	far.appear(plan.Link{
		Name: want.Peer.Link, Kind: plan.LinkVeth, MTU: want.MTU, MAC: want.Peer.MAC,
		Peer: plan.Peer{Sandbox: s.Name, Link: want.Name, MAC: want.MAC},
	})
	return nil
}

// appear adds a device with the settings that a new one of ours has.
func (s *fakeSpace) appear(l plan.Link) {
	s.Links = append(s.Links, l)
	for key, value := range map[string]string{"net/ipv4/conf/%s/rp_filter": "1", "net/ipv6/conf/%s/accept_dad": "1", "net/ipv6/conf/%s/accept_ra": "0"} {
		s.settings[fmt.Sprintf(key, l.Name)] = value
	}
}

// dropLink removes a device, its other end, and all that stands on either.
func (f *Fake) dropLink(s *fakeSpace, l plan.Link) {
	s.vanish(l.Name)
	if far := f.spaces[l.Peer.Sandbox]; l.Kind == plan.LinkVeth && far != nil {
		far.vanish(l.Peer.Link)
	}
}

func (s *fakeSpace) vanish(link string) {
	s.Links = slices.DeleteFunc(slices.Clone(s.Links), func(l plan.Link) bool { return l.Name == link })
	for i, l := range s.Links {
		if l.Master == link {
			s.Links[i].Master, s.Links[i].Isolated = "", false
		}
	}
	s.Addrs = slices.DeleteFunc(slices.Clone(s.Addrs), func(a plan.Addr) bool { return a.Link == link })
	s.Neighs = slices.DeleteFunc(slices.Clone(s.Neighs), func(n plan.Neigh) bool { return n.Link == link })
	s.FDB = slices.DeleteFunc(slices.Clone(s.FDB), func(e plan.FDBEntry) bool { return e.Link == link })
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r plan.Route) bool { return r.Link == link })
	for key := range s.settings {
		if strings.Contains(key, "/"+link+"/") {
			delete(s.settings, key)
		}
	}
}
