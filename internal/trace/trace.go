// Package trace walks one packet through the plans of the nodes that it meets,
// hook by hook, and back. It answers "where does it go?" instead of "which rules
// exist?":
//
//	Question --Walk--> []Hop, each with the plan lines that it relied on
//	                     |
//	differences between this node's plan and its kernel --Compare--> which hop is broken, and why
//
// Rules are not looked up by name but carried out on the packet, in the order of
// their hooks (rule.go). A rule or a chain of a shape that is not known here is an
// error: what is not understood must not be explained.
package trace

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Node is one node that the packet may meet.
type Node struct {
	Name    string
	Addr    netip.Addr   // underlay address
	Local   []netip.Addr // the host's own addresses, beside loopback and those in the plan
	Mounted string       // the folder where its sandboxes are mounted, for the commands
	Plan    *plan.Plan
}

// Outside is the device by which a packet from another machine comes. No device
// of ours has such a name, and no rule tells cards apart.
const Outside = "(outside)"

// Question is the first packet of a flow.
type Question struct {
	Entry  Node   // the node that is dialled
	Others []Node // those with a backend; more do no harm
	Proto  string // tcp, udp or sctp
	From   netip.Addr
	Via    string // the host's device by which it comes; "": a process of the node itself dials
	Inside string // the network sandbox whose device Via is, where an endpoint dials a virtual address
	To     netip.Addr
	Port   uint16
	Names  map[netip.Addr]string // what people call the endpoints
}

// String is "tcp 192.0.2.1 -> 192.0.2.11:8080".
func (q Question) String() string {
	return fmt.Sprintf("%s %s -> %s", q.Proto, q.From, netip.AddrPortFrom(q.To, q.Port))
}

// State is what is known of a hop.
type State string

// The states.
const (
	OK        State = "ok"        // the packet passes, as planned and (after Compare) as the kernel has it
	Unchecked State = "unchecked" // as planned; the kernel of that node was not looked at
	Broken    State = "broken"    // it does not pass, or the kernel differs from what it relied on
)

// Hop is one stage of the packet's way. Numbers are those of docs/PACKET.md.
type Hop struct {
	Number  int
	Node    string
	Sandbox string
	Backend netip.AddrPort // the choice that this hop belongs to; zero before the choice
	What    string         // one line
	Relies  []Object       // in the order in which the packet met them
	Command string         // shows it on the node
	State   State
	Why     string // empty where it is OK
}

// Object is something that a hop relied on: a line of the plan, or the absence of one.
type Object struct {
	Sandbox string
	Line    string // as sluice plan prints it, sets and chains by their name before it; "": it relied on there being none
	ref     ref
}

// ref is what Compare finds an object by.
type ref struct {
	family, set, key string // of an element of an nft set
	dst              netip.Addr
	bits             int        // of the route that was taken towards dst; -1: of none
	src              netip.Addr // that rules were asked about
}

// walk is one packet on its way.
type walk struct {
	q       Question
	hops    []Hop
	node    *Node         // where it is
	sandbox *plan.Sandbox // in which namespace there
	backend netip.AddrPort
	flow    flow
	draw    int           // what a lot gives
	lots    int           // how many the last lot was drawn from
	kept    time.Duration // for how long the node remembers the choice for the client; 0: not at all
}

// flow is what the entry node's conntrack and IPVS remember of the packet, and
// undo on its reply.
type flow struct {
	client, dialled netip.Addr // as the client sees them
	uplink          netip.Addr // what ingress-sbox was dialled at
	zone            uint16     // in the network sandbox of the endpoint's node
	nat             bool       // ingress-sbox balances by conntrack, not by IPVS
}

// broken ends one way of the packet.
type broken struct{ why string }

func (b *broken) Error() string { return b.why }

func breakf(format string, args ...any) error { return &broken{fmt.Sprintf(format, args...)} }

// Walk follows the packet to each backend that may be chosen, and back. Hops come
// in the order of the way, the choices one after the other. Where the packet
// ends before its goal its last hop is broken. An error says that a plan holds
// something that Walk does not understand.
func Walk(q Question) ([]Hop, error) {
	if q.From.Is4() != q.To.Is4() {
		return nil, fmt.Errorf("walk %s: the addresses are of two families", q)
	}
	w := &walk{q: q, flow: flow{client: q.From, dialled: q.To}}
	enter, serve := w.enter, w.serve
	if q.Inside != "" {
		enter, serve = w.enterInside, w.serveInside
	}
	p, choices, err := enter()
	if err != nil {
		return w.hops, w.end(err)
	}
	atChoice, arrived := *w, p
	for _, b := range choices {
		w.node, w.sandbox, w.flow = atChoice.node, atChoice.sandbox, atChoice.flow
		if b.Port == 0 {
			b.Port = p.dport // kept
		}
		w.backend = netip.AddrPortFrom(b.Addr, b.Port)
		err := serve(arrived, b)
		if err := w.end(err); err != nil {
			return w.hops, err
		}
	}
	return w.hops, nil
}

// end marks the hop at which the way ended. What is no end of a way stays an error.
func (w *walk) end(err error) error {
	if b, ok := errors.AsType[*broken](err); ok {
		w.hop().State, w.hop().Why = Broken, b.why
		return nil
	}
	return err
}

// begin starts a hop where the packet is.
func (w *walk) begin(number int, command string, args ...any) {
	w.hops = append(w.hops, Hop{
		Number: number, Node: w.node.Name, Sandbox: w.sandbox.Name, Backend: w.backend, State: OK,
	})
	w.command(command, args...)
}

// command says what shows the hop, run in the namespace that the packet is in.
func (w *walk) command(command string, args ...any) {
	command = fmt.Sprintf(command, args...)
	if w.sandbox.Kind != plan.KindHost {
		command = "nsenter --net=" + path.Join(w.node.Mounted, w.sandbox.Name) + " " + command
	}
	w.hop().Command = command
}

// hop is the one that the packet is at.
func (w *walk) hop() *Hop { return &w.hops[len(w.hops)-1] }

// what says what happens at the hop.
func (w *walk) what(format string, args ...any) { w.hop().What = fmt.Sprintf(format, args...) }

// rely notes an object of the sandbox that the packet is in.
func (w *walk) rely(line string) { w.note(Object{Sandbox: w.sandbox.Name, Line: line}) }

func (w *walk) note(o Object) {
	if h := w.hop(); !slices.Contains(h.Relies, o) {
		h.Relies = append(h.Relies, o)
	}
}

// enterHost and enterSandbox move the packet.
func (w *walk) enterHost(n *Node) error {
	w.node = n
	return w.enterSandbox(plan.HostSandbox)
}

func (w *walk) enterSandbox(name string) error {
	for _, s := range w.node.Plan.Sandboxes {
		if s.Name == name {
			w.sandbox = s
			return nil
		}
	}
	return breakf("node %s plans no sandbox %s", w.node.Name, name)
}

// nodeAt finds a node by its underlay address.
func (w *walk) nodeAt(addr netip.Addr) (*Node, error) {
	if w.q.Entry.Addr == addr {
		return &w.q.Entry, nil
	}
	for i := range w.q.Others {
		if w.q.Others[i].Addr == addr {
			return &w.q.Others[i], nil
		}
	}
	return nil, breakf("no known node is at %s", addr)
}
