package kernel

import (
	"cmp"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// ports looks who has those that the agent and its tunnels need.
func (i *inspector) ports() error {
	i.facts.Ports = []doctor.Port{
		{Use: "gossip", Proto: "tcp", Number: i.GossipPort},
		{Use: "gossip", Proto: "udp", Number: i.GossipPort},
		{Use: "vxlan", Proto: "udp", Number: i.VXLANPort},
	}
	asked := make([]Port, len(i.facts.Ports))
	for n, p := range i.facts.Ports {
		asked[n] = Port{Proto: p.Proto, Number: p.Number}
	}
	sockets, err := (&Kernel{host: i.host}).hostSockets(asked)
	if err != nil {
		return err
	}
	had := map[Port][]socket{}
	for _, p := range asked {
		for _, s := range sockets {
			if s.holds(p) {
				had[p] = append(had[p], s)
			}
		}
	}
	owners := new(holders).of(had)
	for n, p := range asked {
		i.facts.Ports[n].Holders = i.portHolders(p, had[p], owners)
	}
	return nil
}

// portHolders are those of one port, each once. A socket that is no process's, as far as one
// can see, is the kernel's where a tunnel uses the port.
func (i *inspector) portHolders(p Port, sockets []socket, owners map[uint32]owner) []doctor.Holder {
	var all []doctor.Holder
	for _, s := range sockets {
		o, known := owners[s.inode]
		h := doctor.Holder{PID: o.pid, Name: printable(o.name)}
		h.Kernel = !known && p.Proto == "udp" && i.tunnelOn(p.Number)
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b doctor.Holder) int { return cmp.Compare(a.PID, b.PID) })
	return slices.Compact(all)
}

// tunnelOn tells whether a VXLAN device uses a port of the host. Its socket is the kernel's,
// and looks like one of a process that is not seen.
func (i *inspector) tunnelOn(port uint16) bool {
	onPort := func(l netlink.Link) bool {
		v, ok := l.(*netlink.Vxlan)
		return ok && v.Port == int(port)
	}
	if links, err := i.host.list(); err == nil && slices.ContainsFunc(links, onPort) {
		return true
	}
	for _, s := range i.facts.RunDir.Sandboxes {
		n, err := openNamespace(s, plan.KindNetwork, filepath.Join(i.RunDir, netnsName, s))
		if err != nil {
			continue // it went meanwhile
		}
		links, err := n.list()
		n.close()
		if err == nil && slices.ContainsFunc(links, onPort) {
			return true
		}
	}
	return false
}
