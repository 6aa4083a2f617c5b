package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// hosted is the way to an endpoint of the node that is dialled, and back, where the node
// answers on a port by itself: no ingress-sbox, no choice, no other node.
func (w *walk) hosted(p *packet) error {
	to := w.called(p.dst, p.dport)
	w.what("%s is captured: it goes to %s", w.q, to)
	w.flow.nat = true
	w.begin(2, "ip route get %s", p.dst)
	w.what("to %s", to)
	passes := w.forward
	if w.q.Via == "" {
		passes = made
	}
	if err := w.onward(p, passes); err != nil {
		return err
	}
	source := fmt.Sprintf("the source stays %s", p.src)
	if p.src != w.q.From {
		source = fmt.Sprintf("the source %s becomes %s", w.q.From, p.src)
	}
	w.what("to %s: by the host to %s in %s; %s", to, p.iif, w.sandbox.Name, source)
	if w.sandbox.Kind == plan.KindNetwork {
		w.begin(7, "nft list set inet %s hosted%s", plan.TableName, plan.Suffix(p.dst))
		w.what("%s from the host", target(p))
		if err := w.hook("prerouting", p); err != nil {
			return err
		}
		if err := w.onward(p, w.forward); err != nil {
			return err
		}
		w.what("from the host it is let in to %s", to)
	}
	if err := w.arrived(p, to); err != nil {
		return err
	}
	return w.answer(p)
}

// made is what lets a packet on that was made in the sandbox, and not forwarded by it.
func made(*packet) error { return nil }

// onward sends a packet on from the sandbox that it is in, where that lets it pass.
func (w *walk) onward(p *packet, passes func(*packet) error) error {
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	if err := passes(p); err != nil {
		return err
	}
	if err := w.hook("postrouting", p); err != nil {
		return err
	}
	return w.send(p, r)
}

// arrived is hop 8 for a packet that is in the endpoint's namespace.
func (w *walk) arrived(p *packet, to string) error {
	w.begin(8, "ip addr show %s", p.iif)
	w.what("to %s", to)
	if err := w.takenIn(p); err != nil {
		return err
	}
	w.what("by %s in %s; %s sees %s", p.iif, w.sandbox.Name, to, p.src)
	return nil
}

// answer is hops 9 and 10: the reply goes to the host by the interface that was asked, and
// conntrack there undoes what it did.
func (w *walk) answer(request *packet) error {
	p := packet{proto: request.proto, src: request.dst, dst: request.src, ct: ctEstablished, flags: []string{"syn", "ack"}}
	w.begin(9, "ip route get %s from %s", p.dst, p.src)
	w.what("the reply to %s", p.dst)
	if err := w.hook("output", &p); err != nil {
		return err
	}
	if err := w.onward(&p, made); err != nil {
		return err
	}
	if w.sandbox.Kind == plan.KindNetwork {
		if err := w.hook("prerouting", &p); err != nil {
			return err
		}
		if err := w.onward(&p, w.forward); err != nil {
			return err
		}
	}
	w.what("the reply to %s goes to the host by %s", p.dst, p.iif)
	if err := w.home(); err != nil {
		return err
	}
	return w.deliver(&p)
}

// overBridge is the device by which a packet to next, sent by l, leaves the namespace of the bridge that the
// other end of l is a port of, and the walk is there; where that is no port, l itself.
func (w *walk) overBridge(p *packet, l plan.Link, next netip.Addr) (plan.Link, error) {
	far, bridged := w.portBehind(l)
	if !bridged {
		return l, nil
	}
	if err := w.enterSandbox(l.Peer.Sandbox); err != nil {
		return l, err
	}
	if far.Peer.Link != l.Name {
		return l, breakf("device %s is no pair with %s", far.Name, l.Name)
	}
	w.note(w.object(far))
	if _, err := w.link(far.Master); err != nil {
		return l, err
	}
	frame := *p
	frame.arrive(far.Name)
	frame.etherSrc = l.MAC
	if err := w.pass("bridge", "prerouting", &frame, wholeHook()); err != nil {
		return l, err
	}
	for _, port := range w.sandbox.Links {
		if port.Master != far.Master || port.Name == far.Name || port.Isolated && far.Isolated {
			continue
		}
		for _, s := range w.node.Plan.Sandboxes {
			if s.Name == port.Peer.Sandbox && slices.ContainsFunc(s.Addrs, func(a plan.Addr) bool { return a.Link == port.Peer.Link && a.Prefix.Addr() == next }) {
				return w.link(port.Name)
			}
		}
	}
	return l, breakf("nobody on the bridge of %s has %s", w.sandbox.Name, next)
}

// portBehind is the other end of a veth, where that is a port of a bridge.
func (w *walk) portBehind(l plan.Link) (plan.Link, bool) {
	if l.Kind != plan.LinkVeth {
		return plan.Link{}, false
	}
	for _, s := range w.node.Plan.Sandboxes {
		if s.Name != l.Peer.Sandbox {
			continue
		}
		for _, far := range s.Links {
			if far.Name == l.Peer.Link {
				return far, far.Master != ""
			}
		}
	}
	return plan.Link{}, false
}

// inRange tells whether a key is inside an element of a set of ranges.
func inRange(element, key string) bool {
	parts, want := strings.Split(element, plan.Join("", "")), strings.Split(key, plan.Join("", ""))
	if len(parts) != len(want) {
		return false
	}
	for i, part := range parts {
		first, last, ranged := strings.Cut(part, "-")
		if part == want[i] {
			continue
		}
		if !ranged || !between(first, want[i], last) {
			return false
		}
	}
	return true
}

func between(first, value, last string) bool {
	low, lowErr := netip.ParseAddr(first)
	addr, err := netip.ParseAddr(value)
	high, highErr := netip.ParseAddr(last)
	if lowErr == nil && err == nil && highErr == nil {
		return low.BitLen() == addr.BitLen() && low.Compare(addr) <= 0 && addr.Compare(high) <= 0
	}
	a, aErr := strconv.Atoi(first)
	v, vErr := strconv.Atoi(value)
	b, bErr := strconv.Atoi(last)
	return aErr == nil && vErr == nil && bErr == nil && a <= v && v <= b
}
