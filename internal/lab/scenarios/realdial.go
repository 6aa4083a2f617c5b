package scenarios

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/mesh"
)

// Each question has a client port that none had for long: conntrack remembers
// datagrams for half a minute, and would give an old flow's endpoint to a new one.
const (
	firstPort = 2000
	lastPort  = 64000
)

// How often a question is put: at least so often, and on until all who are
// expected have answered, up to so often. With two endpoints at random one stays
// unmet in one of 10^18 runs.
const (
	least = 3
	most  = 60
)

func (f *Real) nextPort() uint16 {
	if f.port++; f.port > lastPort {
		f.port = firstPort
	}
	return f.port
}

// place is where a client's sockets are.
func (f *Real) place(name string) (*space.Space, error) {
	if s := f.spaces[name]; s != nil {
		return s, nil
	}
	if l := f.living[name]; l != nil {
		return l.space, nil
	}
	return nil, fmt.Errorf("nobody is called %q", name)
}

func (f *Real) client(from string, how How) (probe.Client, error) {
	place, err := f.place(from)
	any := netip.IPv4Unspecified()
	if how.Six {
		any = netip.IPv6Unspecified()
	}
	return probe.Client{Place: place, Local: netip.AddrPortFrom(any, f.nextPort()), Wait: patience}, err
}

func (a ask) addr() netip.AddrPort {
	if a.at.IsValid() {
		return netip.AddrPortFrom(a.at, a.port)
	}
	return netip.AddrPortFrom(address(a.to, a.how.Six), a.port)
}

// once asks once.
func once(c probe.Client, proto mesh.Proto, to netip.AddrPort) (probe.Answer, error) {
	if proto == mesh.TCP {
		return c.Get(to)
	}
	return c.Ask(to, 1)
}

// outcome is a server's name, or the failure.
func outcome(a probe.Answer, err error) string {
	if err != nil {
		return probe.Outcome(err)
	}
	return a.Name
}

// Dial implements Fabric.
func (f *Real) Dial(a ask, expected int) (seen, error) {
	var s seen
	err := f.within(a, func(c probe.Client) {
		for i := 0; i < most && (i < least || len(s.names) < expected); i++ {
			answer, err := once(f.fresh(c), a.how.Proto, a.addr())
			if err != nil {
				s.add(probe.Outcome(err), "")
			} else {
				s.add(answer.Name, f.world.called(answer.Source.Addr()))
			}
			if len(s.names) > expected || s.names[0] == silence {
				break // that it is wrong is known
			}
		}
	})
	return s, err
}

// within runs each where the one who asks is, with a client of that place: changing
// threads for every socket would take most of the time.
func (f *Real) within(a ask, each func(probe.Client)) error {
	c, err := f.client(a.from, a.how)
	if err != nil {
		return err
	}
	return c.Place.Do(func() error {
		c.Place = probe.Here{}
		each(c)
		return nil
	})
}

// fresh is the same client with another port.
func (f *Real) fresh(c probe.Client) probe.Client {
	c.Local = netip.AddrPortFrom(c.Local.Addr(), f.nextPort())
	return c
}

// realFlow is an open connection, or a UDP socket.
type realFlow struct{ flow *probe.Flow }

func (f realFlow) ask() string { return outcome(f.flow.Ask()) }

func (f realFlow) close() { f.flow.Close() }

// Hold implements Fabric: flows are opened until the server has one.
func (f *Real) Hold(a ask, server string) (flow, error) {
	var last string
	for range most {
		c, err := f.client(a.from, a.how)
		if err != nil {
			return nil, err
		}
		open, err := c.Open(string(a.how.Proto), a.addr())
		if err != nil {
			return nil, fmt.Errorf("open a flow: %s", probe.Outcome(err))
		}
		if last = outcome(open.Ask()); last == server {
			return realFlow{open}, nil
		}
		open.Close()
	}
	return nil, fmt.Errorf("%s does not answer, but %s", server, last)
}

// OnePort implements Fabric.
func (f *Real) OnePort(from string, at target, how How) (seen, error) {
	var s seen
	c, err := f.client(from, how)
	if err != nil {
		return s, err
	}
	var to []netip.AddrPort
	for _, place := range at.at {
		to = append(to, netip.AddrPortFrom(address(place, how.Six), at.port))
	}
	ask, rounds := c.AskFromOnePort, 1
	if how.Proto == mesh.TCP {
		ask, rounds = c.GetFromOnePort, 2
	}
	answers, err := ask(to)
	for _, a := range answers {
		s.add(a.Name, calledSource(a.Source.Addr()))
		if a.Source.Port() != c.Local.Port() && len(to) == 1 {
			s.add("another client port", "")
		}
	}
	if err != nil {
		s.add(probe.Outcome(err), "")
	} else if len(answers) != rounds*len(to) {
		s.add(fmt.Sprintf("%d answers", len(answers)), "")
	}
	return s, nil
}

// Clients implements Fabric.
func (f *Real) Clients(n int, a ask) ([]string, bool, error) {
	var names []string
	port := f.nextPort()
	err := f.within(a, func(c probe.Client) {
		for i := range n {
			c.Local = netip.AddrPortFrom(manyAddr(i, a.how), port)
			names = append(names, outcome(once(c, a.how.Proto, a.addr())))
		}
	})
	return names, true, err
}

// Spread implements Fabric. The many clients share the connections, a thousand at a port.
func (f *Real) Spread(n int, a ask) (map[string]int, bool, error) {
	const clients = 1000
	counts := map[string]int{}
	err := f.within(a, func(c probe.Client) {
		for i := range n {
			if a.from != manyName || i%clients == 0 {
				c = f.fresh(c)
			}
			if a.from == manyName {
				c.Local = netip.AddrPortFrom(manyAddr(i%clients, a.how), c.Local.Port())
			}
			counts[outcome(once(c, a.how.Proto, a.addr()))]++
		}
	})
	return counts, true, err
}
