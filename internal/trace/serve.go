package trace

import (
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// serve is the way to one backend and back: hops 5 to 10.
func (w *walk) serve(p packet, b plan.Backend) error {
	p.dst, p.dport, p.dnat = b.Addr, b.Port, w.flow.nat
	if err := w.towards(&p, b); err != nil {
		return err
	}
	if err := w.isolate(&p); err != nil {
		return err
	}
	return w.back(&p)
}

// towards is hops 5 and 6: out of ingress-sbox by the door or the tunnel, and in
// by the underlay.
func (w *walk) towards(p *packet, b plan.Backend) error {
	w.begin(5, "ip route get %s", p.dst)
	w.what("to %s", w.called(b.Addr, b.Port))
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	hooks := []string{"output", "postrouting"} // IPVS sends as if the packet were made here
	if w.flow.nat {
		if err := w.forwarding(p); err != nil {
			return err
		}
		hooks = []string{"forward", "postrouting"}
	}
	for _, hook := range hooks {
		if err := w.hook(hook, p); err != nil {
			return err
		}
	}
	l, err := w.link(r.link)
	if err != nil {
		return err
	}
	if l.Kind == plan.LinkVeth {
		w.command("ip link show %s", l.Name)
		if err := w.send(p, r); err != nil {
			return err
		}
		w.what("to %s: by %s, MAC address %s, to %s in %s", w.called(b.Addr, b.Port), l.Name, p.etherDst, p.iif, w.sandbox.Name)
		w.begin(7, "nft list set inet %s targets%s", plan.TableName, plan.Suffix(p.dst))
		return nil
	}
	w.command("bridge fdb show dev %s", l.Name)
	if err := w.resolve(p, l, r.next); err != nil {
		return err
	}
	f, err := w.tunnel(p, l)
	if err != nil {
		return err
	}
	w.what("to %s: by %s, MAC address %s, in the tunnel to %s vni %d", w.called(b.Addr, b.Port), l.Name, p.etherDst, f.Dst, f.VNI)
	return w.underlay(p, l.VXLAN.Local, f)
}

// underlay is hop 6: the other host accepts tunnel packets from members only.
func (w *walk) underlay(p *packet, from netip.Addr, f plan.FDBEntry) error {
	far, err := w.nodeAt(f.Dst)
	if err != nil {
		return err
	}
	w.node, w.sandbox = far, &plan.Sandbox{Name: plan.HostSandbox, Kind: plan.KindHost}
	w.begin(6, "nft list set inet %s peers%s", plan.TableName, plan.Suffix(from))
	w.what("a tunnel packet from %s", from)
	if err := w.enterHost(far); err != nil {
		return err
	}
	if err := w.receive(from, f); err != nil {
		return err
	}
	w.what("%s is a node of the cluster, and may send tunnel packets", from)
	end, err := w.tunnelEnd(f)
	if err != nil {
		return err
	}
	w.begin(7, "nft list set inet %s targets%s", plan.TableName, plan.Suffix(p.dst))
	return w.unwrap(p, end)
}

// isolate is hops 7 and 8: the sender's zone, whether the endpoint may be spoken
// to on this port, and the way to its namespace.
func (w *walk) isolate(p *packet) error {
	w.what("%s from the tunnel end %s", target(p), p.etherSrc)
	if err := w.hook("prerouting", p); err != nil {
		return err
	}
	r := w.route(p.src, p.dst)
	if r.kind == routeOut {
		p.oif = r.link
		if err := w.forward(p); err != nil {
			return err
		}
		if err := w.hook("postrouting", p); err != nil {
			return err
		}
	}
	w.flow.zone = p.zone
	w.what("%s from the tunnel end %s is let in, its flow is in zone %d", target(p), p.etherSrc, p.zone)
	w.begin(8, "ip route get %s", p.dst)
	w.what("to %s", p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	return w.handOver(p, r)
}

// handOver gives the packet to the endpoint that a route leads to.
func (w *walk) handOver(p *packet, r route) error {
	if err := w.send(p, r); err != nil {
		return err
	}
	if err := w.takenIn(p); err != nil {
		return err
	}
	w.what("by %s to %s in %s; %s sees %s", r.link, p.iif, w.sandbox.Name, w.called(p.dst, p.dport), p.src)
	return nil
}

// takenIn lets the endpoint's namespace, where the packet is, take it for its own.
func (w *walk) takenIn(p *packet) error {
	own := w.route(p.src, p.dst)
	if w.noteAll(own.objects); own.kind != routeLocal {
		return breakf("%s is no address in %s", p.dst, w.sandbox.Name)
	}
	for _, hook := range []string{"prerouting", "input"} {
		if err := w.hook(hook, p); err != nil {
			return err
		}
	}
	return nil
}
