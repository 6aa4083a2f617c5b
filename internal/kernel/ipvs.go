package kernel

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"slices"
	"time"

	"github.com/moby/ipvs"
	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// ipvsWait is how long the kernel may take for one question. The library itself
// waits for ever when an answer is lost.
const ipvsWait = time.Minute

// foreignWeight stands for a backend that is not reached by masquerading, which
// no plan has: any wanted weight differs from it, and so it is mended.
const foreignWeight = -1

// ipvsState is the connection to a namespace's IPVS, opened at first use.
type ipvsState struct{ handle *ipvs.Handle }

func (s *ipvsState) close() {
	if s.handle != nil {
		s.handle.Close()
	}
	s.handle = nil
}

// HasIPVS says whether this kernel has IP_VS, loading the module where there is
// one. Without it the library reports success for everything, so that it is
// never called before this, or loadedIPVS, has said yes.
func HasIPVS() bool {
	if loadedIPVS() {
		return true
	}
	if err := exec.Command("modprobe", "ip_vs").Run(); err != nil {
		return false
	}
	return loadedIPVS()
}

// loadedIPVS says whether IP_VS is there now.
func loadedIPVS() bool {
	_, err := netlink.GenlFamilyGet("IPVS")
	return err == nil
}

// askIPVS calls f with the namespace's handle and gives it ipvsWait. A handle
// that was late or that failed otherwise than by a plain errno is not used again.
func (n *namespace) askIPVS(f func(*ipvs.Handle) error) error {
	if n.ipvs.handle == nil {
		// It logs that modprobe failed, where IP_VS may as well be built in.
		logrus.SetOutput(io.Discard)
		handle, err := ipvs.New(fmt.Sprintf("/proc/self/fd/%d", int(n.fd)))
		if err != nil {
			return fmt.Errorf("open IPVS: %w", err)
		}
		n.ipvs.handle = handle
	}
	var err error
	done := make(chan struct{})
	handle := n.ipvs.handle
	go func() {
		defer close(done)
		err = f(handle)
	}()
	late := time.NewTimer(ipvsWait)
	defer late.Stop()
	select {
	case <-done:
		var errno unix.Errno
		if err != nil && !errors.As(err, &errno) {
			n.ipvs.close()
		}
		return err
	case <-late.C:
		handle.Close()
		<-done // its socket is closed: it ends within the library's own 3 s
		n.ipvs.handle = nil
		return fmt.Errorf("no answer within %s", ipvsWait)
	}
}

// observeIPVS says what the namespace balances by firewall mark, or at an address of the
// uplink; other services are not ours. A kernel without IP_VS has nothing. Only to be asked
// of namespaces that are wholly ours: an IPVS service carries no mark of its owner.
func (n *namespace) observeIPVS() ([]plan.VirtualServer, []plan.Backend, plan.Timeouts, error) {
	var virtual []plan.VirtualServer
	var backends []plan.Backend
	var timeouts plan.Timeouts
	if !loadedIPVS() {
		n.ipvs.close()
		return nil, nil, timeouts, nil
	}
	err := n.askIPVS(func(h *ipvs.Handle) error {
		config, err := h.GetConfig()
		if err != nil {
			return fmt.Errorf("read IPVS timeouts: %w", err)
		}
		timeouts = plan.Timeouts{TCP: config.TimeoutTCP, TCPFin: config.TimeoutTCPFin, UDP: config.TimeoutUDP}
		services, err := h.GetServices()
		if err != nil {
			return fmt.Errorf("list IPVS services: %w", err)
		}
		for _, s := range services {
			v := plan.VirtualServer{Mark: s.FWMark, Family: familyOfAF(s.AddressFamily), Scheduler: s.SchedName}
			if s.FWMark == 0 {
				if v.Dialled = dialledOf(s); !onUplink(v.Dialled.At.Addr()) {
					continue
				}
			}
			readFlags(&v, s)
			virtual = append(virtual, v)
			held, err := readBackends(h, s, v)
			if err != nil {
				return fmt.Errorf("list backends of %s: %w", v, err)
			}
			backends = append(backends, held...)
		}
		return nil
	})
	if err != nil {
		return nil, nil, plan.Timeouts{}, err
	}
	return virtual, backends, timeouts, nil
}

// readBackends are a service's in the order of their arrival; the kernel tells the newest first.
func readBackends(h *ipvs.Handle, s *ipvs.Service, v plan.VirtualServer) ([]plan.Backend, error) {
	destinations, err := h.GetDestinations(s)
	if err != nil {
		return nil, err
	}
	backends := make([]plan.Backend, 0, len(destinations))
	for _, d := range slices.Backward(destinations) {
		addr, ok := netip.AddrFromSlice(d.Address)
		if !ok {
			return nil, fmt.Errorf("address of %d bytes", len(d.Address))
		}
		weight := d.Weight
		if d.ConnectionFlags&ipvs.ConnectionFlagFwdMask != ipvs.ConnectionFlagMasq {
			weight = foreignWeight
		}
		backends = append(backends, plan.Backend{Mark: v.Mark, Dialled: v.Dialled, Addr: addr, Port: d.Port, Weight: weight})
	}
	return backends, nil
}

func familyOfAF(af uint16) plan.Family {
	if af == unix.AF_INET6 {
		return plan.IPv6
	}
	return plan.IPv4
}

// doIPVS carries out an op on a plan.VirtualServer, plan.Backend, BackendOrder or plan.Timeouts.
func (n *namespace) doIPVS(op Op) error {
	switch op.Object.(type) {
	case plan.VirtualServer, plan.Backend, plan.Timeouts, BackendOrder:
	default:
		return fmt.Errorf("ipvs: cannot %s a %T", op.Verb, op.Object)
	}
	if n.ipvs.handle == nil && !HasIPVS() { // an open handle is proof
		if op.Verb == Delete {
			return nil
		}
		return &Refusal{plan.FeatureMissing, "this kernel has no IP_VS", "load the module ip_vs, or use a kernel that has it"}
	}
	if o, ok := op.Object.(BackendOrder); ok {
		return n.doOrder(o)
	}
	return n.askIPVS(func(h *ipvs.Handle) error {
		switch o := op.Object.(type) {
		case plan.VirtualServer:
			return doVirtualServer(h, op.Verb, o)
		case plan.Backend:
			return doBackend(h, op.Verb, o)
		case plan.Timeouts:
			return doTimeouts(h, op.Verb, o)
		default:
			return nil // not reached
		}
	})
}

// service is IPVS's own form of a virtual server. The netmask counts for
// persistence only, but the kernel refuses IPv6 services without a whole one.
func service(key serverKey) *ipvs.Service {
	s := &ipvs.Service{FWMark: key.mark, AddressFamily: unix.AF_INET, Netmask: 0xffffffff}
	if key.family == plan.IPv6 {
		s.AddressFamily, s.Netmask = unix.AF_INET6, 128
	}
	if key.mark == 0 {
		s.Protocol, s.Address, s.Port = protoNumber(key.dialled.Proto), key.dialled.At.Addr().AsSlice(), key.dialled.At.Port()
	}
	return s
}

// dialledOf is the inverse for a service that is not keyed by mark.
func dialledOf(s *ipvs.Service) plan.Dialled {
	addr, _ := netip.AddrFromSlice(s.Address)
	d := plan.Dialled{At: netip.AddrPortFrom(addr, s.Port)}
	for _, proto := range []string{"tcp", "udp", "sctp"} {
		if protoNumber(proto) == s.Protocol {
			d.Proto = proto
		}
	}
	return d
}

func protoNumber(proto string) uint16 {
	switch proto {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	default:
		return 0 // which the kernel refuses
	}
}

// onUplink tells whether clients' packets come to an address.
func onUplink(a netip.Addr) bool {
	return plan.Uplink4(0).Masked().Contains(a) || plan.Uplink6(0).Masked().Contains(a)
}

func doVirtualServer(h *ipvs.Handle, verb Verb, v plan.VirtualServer) error {
	s := service(virtualKey(v))
	s.SchedName = v.Scheduler
	if verb == Delete {
		return absentIsFine(h.DelService(s))
	}
	if err := putFlags(s, v); err != nil {
		return err
	}
	err := addOrUpdate(h.NewService(s), func() error { return h.UpdateService(s) })
	if errors.Is(err, unix.ENOENT) {
		return &Refusal{
			plan.FeatureMissing, fmt.Sprintf("this kernel has no IPVS scheduler %q", v.Scheduler),
			"load the module ip_vs_" + v.Scheduler + ", or choose another scheduler",
		}
	}
	return err
}

func doBackend(h *ipvs.Handle, verb Verb, b plan.Backend) error {
	if b.Weight < 0 && verb != Delete {
		return fmt.Errorf("weight %d is negative", b.Weight)
	}
	s := service(serverOf(b))
	d := &ipvs.Destination{
		AddressFamily: s.AddressFamily, Address: b.Addr.AsSlice(), Port: b.Port,
		Weight: max(b.Weight, 0), ConnectionFlags: ipvs.ConnectionFlagMasq,
	}
	if verb == Delete {
		return absentIsFine(h.DelDestination(s, d))
	}
	return addOrUpdate(h.NewDestination(s, d), func() error { return h.UpdateDestination(s, d) })
}

// doTimeouts sets the namespace's idle limits. To IPVS 0 means "leave it", so a
// limit cannot be taken away, and deleting does nothing.
func doTimeouts(h *ipvs.Handle, verb Verb, t plan.Timeouts) error {
	if verb == Delete {
		return nil
	}
	return h.SetConfig(&ipvs.Config{TimeoutTCP: t.TCP, TimeoutTCPFin: t.TCPFin, TimeoutUDP: t.UDP})
}

// addOrUpdate makes adding what is there an update, which also is what a replace
// of something meanwhile gone needs.
func addOrUpdate(added error, update func() error) error {
	if errors.Is(added, unix.EEXIST) {
		return update()
	}
	return added
}

// absentIsFine lets the two answers pass that say there was nothing to delete:
// no such service, no such destination.
func absentIsFine(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
