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
	least = 6
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

func (a ask) addr() netip.AddrPort { return netip.AddrPortFrom(address(a.to, a.how.Six), a.port) }

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
	for i := 0; i < most && (i < least || len(s.names) < expected); i++ {
		c, err := f.client(a.from, a.how)
		if err != nil {
			return s, err
		}
		answer, err := once(c, a.how.Proto, a.addr())
		if err != nil {
			s.add(probe.Outcome(err), "")
		} else {
			s.add(answer.Name, calledSource(answer.Source.Addr()))
		}
		if len(s.names) > expected || s.names[0] == silence {
			break // that it is wrong is known
		}
	}
	return s, nil
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

// fromMany runs f for each of n connections, in the namespace of the many clients:
// changing threads for each socket would take most of the time.
func (f *Real) fromMany(n int, a ask, local func(i int) netip.AddrPort, each func(name string)) error {
	return f.spaces[manyName].Do(func() error {
		for i := range n {
			c := probe.Client{Place: probe.Here{}, Local: local(i), Wait: patience}
			each(outcome(once(c, a.how.Proto, a.addr())))
		}
		return nil
	})
}

// Clients implements Fabric.
func (f *Real) Clients(n int, a ask) ([]string, bool, error) {
	port := f.nextPort()
	var names []string
	err := f.fromMany(n, a, func(i int) netip.AddrPort {
		return netip.AddrPortFrom(manyAddr(i, a.how.Six), port)
	}, func(name string) { names = append(names, name) })
	return names, true, err
}

// Spread implements Fabric.
func (f *Real) Spread(n int, a ask) (map[string]int, bool, error) {
	counts := map[string]int{}
	if a.from != manyName {
		for range n {
			c, err := f.client(a.from, a.how)
			if err != nil {
				return nil, true, err
			}
			counts[outcome(once(c, a.how.Proto, a.addr()))]++
		}
		return counts, true, nil
	}
	port := f.nextPort()
	const clients = 1000 // more connections than that come from other ports
	err := f.fromMany(n, a, func(i int) netip.AddrPort {
		if i > 0 && i%clients == 0 {
			port = f.nextPort()
		}
		return netip.AddrPortFrom(manyAddr(i%clients, a.how.Six), port)
	}, func(name string) { counts[name]++ })
	return counts, true, err
}
