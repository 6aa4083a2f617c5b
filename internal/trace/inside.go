package trace

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// enterInside is hops 3 and 4 of an endpoint that dials a virtual address: its own network
// sandbox is what balances.
func (w *walk) enterInside() (packet, []plan.Backend, error) {
	q := w.q
	p := packet{proto: q.Proto, src: q.From, dst: q.To, dport: q.Port, iif: q.Via, ct: ctNew, flags: []string{"syn"}}
	w.node, w.sandbox = &w.q.Entry, &plan.Sandbox{Name: q.Inside, Kind: plan.KindNetwork}
	if err := w.enterSandbox(q.Inside); err != nil {
		w.begin(3, "ip netns")
		return p, nil, err
	}
	if err := w.mark(&p); err != nil {
		w.command("nft list map inet %s virtual%s", plan.TableName, plan.Suffix(p.dst))
		return p, nil, err
	}
	w.command("nft list map inet %s virtual%s", plan.TableName, plan.Suffix(p.dst))
	choices, err := w.choose(&p)
	return p, choices, err
}

// serveInside is hops 5 to 10: straight to the endpoint, and back to the caller.
func (w *walk) serveInside(p packet, b plan.Backend) error {
	p.dialled, p.dst, p.dport, p.dnat = p.dst, b.Addr, b.Port, w.flow.nat
	w.begin(5, "ip route get %s", p.dst)
	w.what("to %s", w.called(b.Addr, b.Port))
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	hooks := []string{"output", "postrouting"} // IPVS sends as if the packet were made here
	if w.flow.nat {
		if err := w.forwarding(&p); err != nil {
			return err
		}
		hooks = []string{"forward", "postrouting"}
	}
	for _, hook := range hooks {
		if err := w.hook(hook, &p); err != nil {
			return err
		}
	}
	l, err := w.link(r.link)
	if err != nil {
		return err
	}
	if l.Kind == plan.LinkVeth {
		err = w.neighbour(&p, r)
	} else {
		err = w.peer(&p, l, r)
	}
	if err != nil {
		return err
	}
	return w.backInside(&p)
}

// neighbour is an endpoint of the same node.
func (w *walk) neighbour(p *packet, r route) error {
	w.what("to %s by %s", w.called(p.dst, p.dport), r.link)
	w.begin(8, "ip route get %s", p.dst)
	w.what("to %s", p.dst)
	return w.handOver(p, r)
}

// peer is an endpoint of another node.
func (w *walk) peer(p *packet, l plan.Link, r route) error {
	w.command("bridge fdb show dev %s", l.Name)
	if err := w.resolve(p, l, r.next); err != nil {
		return err
	}
	f, err := w.tunnel(p, l)
	if err != nil {
		return err
	}
	w.what("to %s: by %s, MAC address %s, in the tunnel to %s vni %d", w.called(p.dst, p.dport), l.Name, p.etherDst, f.Dst, f.VNI)
	if err := w.underlay(p, l.VXLAN.Local, f); err != nil {
		return err
	}
	w.command("nft list set inet %s blocks%s", plan.TableName, plan.Suffix(p.dst))
	return w.isolate(p)
}

// backInside is hops 9 and 10: the reply goes to the sandbox that the caller is behind.
func (w *walk) backInside(request *packet) error {
	p := packet{proto: request.proto, src: request.dst, dst: request.src, ct: ctEstablished, flags: []string{"syn", "ack"}}
	endpoint := w.sandbox
	w.sandbox = w.otherEnd(endpoint, request.iif)
	w.begin(9, "ip route get %s", p.dst)
	w.sandbox = endpoint
	if err := w.replied(&p); err != nil {
		return err
	}
	if w.node.Name == w.q.Entry.Name && w.sandbox.Name == w.q.Inside {
		w.what("the reply to %s is in the sandbox that chose", p.dst)
		w.begin(10, "conntrack -L -d %s", w.flow.dialled)
		return w.undoInside(&p)
	}
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	if err := w.forward(&p); err != nil {
		return err
	}
	if err := w.hook("postrouting", &p); err != nil {
		return err
	}
	return w.returnInside(&p, r)
}

// returnInside is the reply's way through the tunnel, to hop 10.
func (w *walk) returnInside(p *packet, r route) error {
	l, err := w.link(r.link)
	if err != nil {
		return err
	}
	if err := w.resolve(p, l, r.next); err != nil {
		return err
	}
	f, err := w.tunnel(p, l)
	if err != nil {
		return err
	}
	w.what("the reply to %s: by %s, MAC address %s, in the tunnel to %s vni %d", p.dst, l.Name, p.etherDst, f.Dst, f.VNI)
	if w.node, err = w.nodeAt(f.Dst); err != nil {
		return err
	}
	if err := w.home(); err != nil {
		return err
	}
	if err := w.receive(l.VXLAN.Local, f); err != nil {
		return err
	}
	end, err := w.tunnelEnd(f)
	if err != nil {
		return err
	}
	if err := w.unwrap(p, end); err != nil {
		return err
	}
	if err := w.hook("prerouting", p); err != nil {
		return err
	}
	return w.undoInside(p)
}

// undoInside is the rest of hop 10: what was chosen is undone, and the caller answered.
func (w *walk) undoInside(p *packet) error {
	w.hop().Sandbox = w.sandbox.Name
	w.command("conntrack -L -d %s", w.flow.dialled)
	w.what("the reply to %s", p.dst)
	p.dst = w.flow.client // of a call that landed on the caller the source was another one
	p.dialled = w.flow.dialled
	if err := w.sendUndone(p, w.flow.dialled); err != nil {
		return err
	}
	for _, hook := range []string{"prerouting", "input"} {
		if err := w.hook(hook, p); err != nil {
			return err
		}
	}
	undo := "IPVS undoes"
	if w.flow.nat {
		undo = "conntrack undoes"
	}
	w.what("%s it: %s is answered by %s", undo, p.dst, netip.AddrPortFrom(p.src, w.q.Port))
	return nil
}
