package trace

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// enter is the way to the choice of a backend: hops 1 to 4.
func (w *walk) enter() (packet, []plan.Backend, error) {
	q := w.q
	p := packet{proto: q.Proto, src: q.From, dst: q.To, dport: q.Port, iif: q.Via, ct: ctNew, flags: []string{"syn"}, socket: q.Via == ""}
	for _, hop := range []func(*packet) error{w.capture, w.uplink, w.mark} {
		if err := hop(&p); err != nil {
			return p, nil, err
		}
	}
	choices, err := w.choose(&p)
	return p, choices, err
}

// capture is hop 1: the host takes what is for a published port.
func (w *walk) capture(p *packet) error {
	w.node = &w.q.Entry
	w.sandbox = &plan.Sandbox{Name: plan.HostSandbox, Kind: plan.KindHost}
	w.begin(1, "nft list set inet %s published", plan.TableName)
	w.what("%s", w.q)
	if err := w.enterHost(w.node); err != nil {
		return err
	}
	local, hook := w.local(p.dst), "prerouting"
	if w.q.Via == "" {
		hook = "output"
	}
	if err := w.hook(hook, p); err != nil {
		return err
	}
	if p.dst != w.q.To {
		for _, o := range w.hop().Relies {
			if o.Line != "" && strings.HasPrefix(o.ref.set, "published_at") {
				w.command("nft list map inet %s %s", plan.TableName, o.ref.set)
			}
		}
		w.what("%s is captured: it goes to %s", w.q, p.dst)
		return nil
	}
	if !local {
		return breakf("%s is no address of node %s: only what is meant for the node itself is captured", p.dst, w.node.Name)
	}
	family := " ip daddr "
	if p.dst.Is6() {
		family = " ip6 daddr "
	}
	w.relyOnRules("fence", family)
	return breakf("%s/%d is not published here%s: the packet stays with the host itself, and chain fence keeps everybody from dialling %s directly",
		p.proto, p.dport, w.reason(), plan.IngressSandbox)
}

// reason is why the plan leaves out what is dialled, in brackets; empty where it
// does not say. Where the port is another's nothing else about it counts.
func (w *walk) reason() string {
	front, reason := fmt.Sprintf("%s/%d", w.q.Proto, w.q.Port), ""
	for _, l := range w.q.Entry.Plan.Left {
		if strings.HasSuffix(l.Object, " port "+front) || strings.HasSuffix(l.Object, " port "+w.q.To.String()+" "+front) {
			if reason == "" || l.Reason == plan.PortHeld {
				reason = fmt.Sprintf(" (%s: %s: %s)", l.Object, l.Reason, l.Detail)
			}
		}
	}
	return reason
}

// uplink is hop 2: out of the host and into ingress-sbox, the client's address kept
// but where it means nothing elsewhere.
func (w *walk) uplink(p *packet) error {
	w.begin(2, "ip link show %s", plan.UplinkHost)
	w.what("to %s", p.dst)
	r := w.route(p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif, w.flow.uplink = r.link, p.dst
	if w.q.Via != "" {
		if err := w.forward(p); err != nil {
			return err
		}
	}
	if err := w.hook("postrouting", p); err != nil {
		return err
	}
	if err := w.send(p, r); err != nil {
		return err
	}
	source := fmt.Sprintf("the source stays %s", p.src)
	if p.src != w.q.From {
		source = fmt.Sprintf("the source %s means nothing on other nodes and becomes %s", w.q.From, p.src)
	}
	w.what("by %s to %s in %s; %s", r.link, p.iif, w.sandbox.Name, source)
	return nil
}

// forward is a sandbox that forwards, as far as the hook of that name.
func (w *walk) forward(p *packet) error {
	if err := w.forwarding(p); err != nil {
		return err
	}
	return w.hook("forward", p)
}

// mark is hop 3: what was dialled gets its mark, or nobody is there and it is refused.
func (w *walk) mark(p *packet) error {
	w.begin(3, "nft list map inet %s services%s", plan.TableName, suffix(p.dst))
	w.what("%s has no mark", target(p))
	if err := w.hook("prerouting", p); err != nil {
		return err
	}
	r := w.route(p.dst)
	if w.noteAll(r.objects); r.kind != routeLocal {
		return breakf("%s is no address of %s", p.dst, w.sandbox.Name)
	}
	err := w.hook("input", p)
	if b, ok := errors.AsType[*broken](err); ok {
		return breakf("%s%s", b.why, w.reason())
	}
	if err != nil {
		return err
	}
	if p.mark == 0 {
		return breakf("without a mark no balancer is asked")
	}
	w.what("%s has mark %s", target(p), plan.HexMark(p.mark))
	return nil
}

// choose is hop 4: IPVS by mark. All that it may pick are returned.
func (w *walk) choose(p *packet) ([]plan.Backend, error) {
	w.begin(4, "ipvsadm -Ln")
	w.what("mark %s", plan.HexMark(p.mark))
	family := plan.FamilyOf(p.dst)
	var served plan.VirtualServer
	for _, v := range w.sandbox.Virtual {
		if v.Mark == p.mark && v.Family == family {
			served = v
		}
	}
	if served.Mark == 0 {
		return nil, breakf("%s has no virtual server of mark %s", w.sandbox.Name, plan.HexMark(p.mark))
	}
	w.note(w.object(served))
	var open []plan.Backend
	var all []string
	for _, b := range w.sandbox.Backends {
		if b.Mark != p.mark || plan.FamilyOf(b.Addr) != family {
			continue
		}
		w.note(w.object(b))
		text := fmt.Sprintf("%s weight %d", w.called(b.Addr, b.Port), b.Weight)
		if b.Weight > 0 {
			open = append(open, b)
		} else {
			text += ", which gets nothing new"
		}
		all = append(all, text)
	}
	// It also relied on no other backend being there.
	w.note(Object{Sandbox: w.sandbox.Name, ref: backendsOf(p.mark, family)})
	w.what("mark %s: IPVS picks by %s one of: %s", plan.HexMark(p.mark), served.Scheduler, strings.Join(all, "; "))
	if len(open) == 0 {
		return nil, breakf("no backend takes a new connection")
	}
	return open, nil
}
