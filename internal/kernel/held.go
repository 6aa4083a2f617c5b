package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Port is a port of the host as a plan captures it.
type Port struct {
	Addr   netip.Addr // only on this local address; the zero value: on all
	Proto  string     // tcp, udp or sctp
	Number uint16
}

// Holding is a port that somebody else on the host has, and who that is: a process
// ("nginx (pid 812)"), or a rule of another program's that takes the packets first.
type Holding struct {
	Port
	By string // printable ASCII, at most HolderLimit characters
}

// HolderLimit is the greatest length of Holding.By.
const HolderLimit = 100

// Held tells which of the ports somebody else on the host has: a socket that listens
// (TCP) or is bound and not connected (UDP), or a foreign NAT rule on the port. A port
// on all addresses is held by whoever has it on any, loopback included. Processes are
// looked for only where a port is held. The result is in the order of ports. Safe
// beside Apply, but for one call at a time.
func (k *Kernel) Held(ports []Port) ([]Holding, error) {
	if len(ports) == 0 {
		return nil, nil
	}
	sockets, err := k.hostSockets(ports)
	if err != nil {
		return nil, err
	}
	takers, err := k.hostTakers()
	if err != nil {
		return nil, err
	}
	bySocket := map[listening][]socket{}
	for _, s := range sockets {
		bySocket[s.listening] = append(bySocket[s.listening], s)
	}
	had := map[Port][]socket{}
	for _, p := range ports {
		for _, s := range bySocket[listening{p.Proto, p.Number}] {
			if s.holds(p) {
				had[p] = append(had[p], s)
			}
		}
	}
	owners := k.holders.of(had)
	var held []Holding
	for _, p := range ports {
		if by := holder(p, had[p], owners, takers); by != "" {
			held = append(held, Holding{p, by})
		}
	}
	return held, nil
}

const unknownProcess = "an unknown process"

// holder is who has a port; "" where nobody does. A process says more than a rule, and
// of several the first one made: a server's workers come and go.
func holder(p Port, sockets []socket, owners map[uint32]owner, takers []taker) string {
	var first owner
	for _, s := range sockets {
		if o, known := owners[s.inode]; known && (first.pid == 0 || o.pid < first.pid) {
			first = o
		}
	}
	switch {
	case first.pid != 0:
		return printable(named(first.name, uint32(first.pid)))
	case len(sockets) > 0:
		return unknownProcess
	}
	for _, t := range takers {
		if t.takes(p) {
			return printable(t.String())
		}
	}
	return ""
}

// printable is text that may go into a log, to a terminal and to other nodes: names of
// processes and chains are whatever their makers chose.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	return text[:min(len(text), HolderLimit)]
}

// Captured are the ports that the host captures now, in no order: what the sets in our
// table hold, whoever planned it. Safe beside Apply.
func (k *Kernel) Captured() ([]Port, error) {
	look := k.lookAtHost()
	defer look.nft.close()
	names, err := look.readSetNames(nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // there is no table of ours
	}
	if err != nil {
		return nil, fmt.Errorf("look for captured ports: %w", err)
	}
	var ports []Port
	for _, s := range captureSets() {
		if !names[s.Name] {
			continue
		}
		held, err := look.readSet(&nftables.Table{Name: plan.TableName, Family: nftables.TableFamilyINet}, s)
		if err != nil {
			return nil, fmt.Errorf("look for captured ports: %w", err)
		}
		for _, e := range held.Elements {
			some, err := capturedPorts(e)
			if err != nil {
				return nil, fmt.Errorf("look for captured ports: set %s: %w", s.Name, err)
			}
			ports = append(ports, some...)
		}
	}
	return ports, nil
}

// captureSets are the sets of the host's table that say which ports are captured.
func captureSets() []*plan.Set {
	port := []plan.Field{plan.FieldProto, plan.FieldPort}
	sets := []*plan.Set{{Name: plan.Published, Key: port}}
	for _, f := range []struct {
		address                                    plan.Field
		meshed, hosted, hostedAt, ranged, rangedAt string
	}{
		{plan.FieldIPv4, plan.PublishedAt4, plan.Hosted4, plan.HostedAt4, plan.HostedRange4, plan.HostedRangeAt4},
		{plan.FieldIPv6, plan.PublishedAt6, plan.Hosted6, plan.HostedAt6, plan.HostedRange6, plan.HostedRangeAt6},
	} {
		portAt, to := slices.Concat([]plan.Field{f.address}, port), []plan.Field{f.address, plan.FieldPort}
		sets = append(
			sets,
			&plan.Set{Name: f.meshed, Key: portAt, Value: to[:1]},
			&plan.Set{Name: f.hosted, Key: port, Value: to},
			&plan.Set{Name: f.hostedAt, Key: portAt, Value: to},
			&plan.Set{Name: f.ranged, Key: port, Value: to[:1], Ranges: true},
			&plan.Set{Name: f.rangedAt, Key: portAt, Value: to[:1], Ranges: true},
		)
	}
	return sets
}

// capturedPorts are those of an element: one, or all of a range.
func capturedPorts(e plan.Element) (ports []Port, err error) {
	var p Port
	parts := strings.Split(e.Key, plan.Join("", ""))
	if len(parts) == 3 {
		if p.Addr, err = netip.ParseAddr(parts[0]); err != nil {
			return nil, err
		}
		parts = parts[1:]
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("element %s has %d parts", e.Key, len(parts))
	}
	from, to, ranged := strings.Cut(parts[1], "-")
	first, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return nil, err
	}
	last := first
	if ranged {
		if last, err = strconv.ParseUint(to, 10, 16); err != nil {
			return nil, err
		}
	}
	p.Proto = parts[0]
	for n := first; n <= last; n++ {
		p.Number = uint16(n)
		ports = append(ports, p)
	}
	return ports, nil
}

// lookAtHost is the host with connections of its own, so that a look does not meet
// Apply on one; its nft is to be closed.
func (k *Kernel) lookAtHost() *namespace {
	return &namespace{name: k.host.name, kind: k.host.kind, fd: k.host.fd}
}
