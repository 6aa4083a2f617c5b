package trace

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// natTranslates is the priority in the prerouting hook at which conntrack gives a
// packet another destination.
const natTranslates = -100

// enter is the way to the choice of a backend: hops 1 to 4. A port that the node answers on by
// itself has no choice: then it is the whole way.
func (w *walk) enter() (packet, []plan.Backend, error) {
	q := w.q
	p := packet{proto: q.Proto, src: q.From, dst: q.To, dport: q.Port, iif: q.Via, ct: ctNew, flags: []string{"syn"}, socket: q.Via == ""}
	if err := w.capture(&p); err != nil {
		return p, nil, err
	}
	if !plan.OnUplink(p.dst) {
		return p, nil, w.hosted(&p)
	}
	for _, hop := range []func(*packet) error{w.uplink, w.mark} {
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
	if err := w.judge(p); err != nil {
		return err
	}
	if p.dst != w.q.To {
		for _, o := range w.hop().Relies {
			if o.Line != "" && (strings.HasPrefix(o.ref.set, "published_at") || slices.Contains(plan.HostedMaps(), o.ref.set)) {
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

// judge is the input hook of a host whose own rules are asked first: what they say is not in any
// plan, and the copy of what they let in comes in again.
func (w *walk) judge(p *packet) error {
	if p.dst != w.q.To || w.q.Via == "" || !w.local(p.dst) {
		return nil
	}
	asked := *p
	err := w.pass(string(plan.FamilyOf(p.dst)), "input", &asked, wholeHook())
	if asked.copied == "" {
		return err
	}
	l, err := w.link(asked.copied)
	if err != nil {
		return err
	}
	p.iif = l.Peer.Link
	return w.hook("prerouting", p)
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
	r := w.route(p.src, p.dst)
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
	w.begin(3, "nft list map inet %s services%s", plan.TableName, plan.Suffix(p.dst))
	w.what("%s has no mark", target(p))
	if err := w.hookSpan("prerouting", p, span{math.MinInt, natTranslates}); err != nil {
		return err
	}
	chains, err := w.chains("inet", "prerouting")
	if err != nil {
		return err
	}
	w.flow.nat = slices.ContainsFunc(chains, func(c baseChain) bool { return c.kind == "nat" })
	if w.flow.nat && p.mark != 0 {
		w.what("%s has mark %s", target(p), plan.HexMark(p.mark))
		return nil
	}
	if err := w.taken(p); err != nil {
		return err
	}
	if p.mark == 0 {
		return breakf("without a mark no balancer is asked")
	}
	w.what("%s has mark %s", target(p), plan.HexMark(p.mark))
	return nil
}

// taken is a packet that stays in ingress-sbox: for IPVS, or to be refused.
func (w *walk) taken(p *packet) error {
	r := w.route(p.src, p.dst)
	if w.noteAll(r.objects); r.kind != routeLocal {
		return breakf("%s is no address of %s", p.dst, w.sandbox.Name)
	}
	err := w.hook("input", p)
	if b, ok := errors.AsType[*broken](err); ok {
		return breakf("%s%s", b.why, w.reason())
	}
	return err
}

// choose is hop 4: the balancer by mark. All that it may pick are returned.
func (w *walk) choose(p *packet) ([]plan.Backend, error) {
	if w.flow.nat {
		return w.drawLots(p)
	}
	return w.askIPVS(p)
}

// drawLots carries the rules out for each lot that may be drawn.
func (w *walk) drawLots(p *packet) ([]plan.Backend, error) {
	mark := plan.HexMark(p.mark)
	w.begin(4, "nft list map inet %s slots%s", plan.TableName, plan.Suffix(p.dst))
	w.what("mark %s", mark)
	var open []plan.Backend
	w.kept = 0
	for w.draw, w.lots = 0, 1; w.draw < w.lots; w.draw++ {
		drawn := *p
		if err := w.hookSpan("prerouting", &drawn, span{natTranslates, math.MaxInt}); err != nil {
			return nil, err
		}
		if drawn.dst == p.dst {
			continue
		}
		b := plan.Backend{Mark: p.mark, Addr: drawn.dst, Port: drawn.dport}
		if i := slices.Index(open, b); i < 0 {
			open = append(open, b)
		}
	}
	if len(open) == 0 {
		if err := w.taken(p); err != nil {
			return nil, err
		}
		return nil, breakf("mark %s leads to no backend", mark)
	}
	slices.SortFunc(open, func(a, b plan.Backend) int { return a.Addr.Compare(b.Addr) })
	names := make([]string, len(open))
	for i, b := range open {
		names[i] = w.called(b.Addr, b.Port)
	}
	w.what("mark %s: a lot of %d picks one of: %s%s", mark, w.lots, strings.Join(names, "; "), remembered(w.kept))
	return open, nil
}

// served is the packet's virtual server: by its mark, otherwise by what it is addressed to.
func (w *walk) served(p *packet) (plan.VirtualServer, bool) {
	dialled := plan.Dialled{Proto: p.proto, At: netip.AddrPortFrom(p.dst, p.dport)}
	for _, key := range []plan.VirtualServer{{Mark: p.mark}, {Dialled: dialled}} {
		for _, v := range w.sandbox.Virtual {
			if v.Mark == key.Mark && v.Dialled == key.Dialled && v.Family == plan.FamilyOf(p.dst) {
				return v, true
			}
		}
	}
	return plan.VirtualServer{}, false
}

// askIPVS lists the backends of the mark.
func (w *walk) askIPVS(p *packet) ([]plan.Backend, error) {
	w.begin(4, "ipvsadm -Ln")
	w.what("mark %s", plan.HexMark(p.mark))
	family := plan.FamilyOf(p.dst)
	served, found := w.served(p)
	if !found {
		return nil, breakf("%s has no virtual server of mark %s", w.sandbox.Name, plan.HexMark(p.mark))
	}
	w.note(w.object(served))
	var open []plan.Backend
	var all []string
	for _, b := range w.sandbox.Backends {
		if b.Mark != served.Mark || b.Dialled != served.Dialled || plan.FamilyOf(b.Addr) != family {
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
	w.note(Object{Sandbox: w.sandbox.Name, ref: backendsOf(served.Mark, served.Dialled, family)})
	w.what("mark %s: IPVS picks by %s one of: %s%s", plan.HexMark(p.mark), served.Scheduler, strings.Join(all, "; "), remembered(served.Persistent))
	if len(open) == 0 {
		return nil, breakf("no backend takes a new connection")
	}
	return open, nil
}
