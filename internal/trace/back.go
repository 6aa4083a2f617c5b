package trace

import (
	"math"
	"net/netip"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// translates is the priority at which replies get the address that was dialled: by
// IPVS in the forward hook, by conntrack in the postrouting hook.
const translates = 100

// back is the reply's way: hops 9 and 10.
func (w *walk) back(request *packet) error {
	p := packet{
		proto: request.proto, src: request.dst, dst: request.src, ct: ctEstablished, flags: []string{"syn", "ack"},
	}
	device, err := w.turn(&p, request.iif)
	if err != nil {
		return err
	}
	mark, zone := plan.HexMark(p.mark), p.zone
	if device.Kind == plan.LinkVeth {
		if err := w.cross(&p, device); err != nil {
			return err
		}
		w.what("the reply of zone %d has mark %s: egress sends it by %s to MAC address %s", zone, mark, device.Name, p.etherDst)
		sbox := w.sandbox
		if err := w.home(); err != nil {
			return err
		}
		w.sandbox = sbox
		return w.leave(&p)
	}
	f, err := w.tunnel(&p, device)
	if err != nil {
		return err
	}
	w.what("the reply of zone %d has mark %s: egress sends it by %s to MAC address %s, in the tunnel to %s vni %d",
		zone, mark, device.Name, p.etherDst, f.Dst, f.VNI)
	if w.node, err = w.nodeAt(f.Dst); err != nil {
		return err
	}
	if err := w.home(); err != nil {
		return err
	}
	if err := w.receive(device.VXLAN.Local, f); err != nil {
		return err
	}
	end, err := w.tunnelEnd(f)
	if err != nil {
		return err
	}
	if err := w.unwrap(&p, end); err != nil {
		return err
	}
	return w.leave(&p)
}

// turn is hop 9, up to the device by which the way-out's egress hook sends the
// reply. inside is the endpoint's device.
func (w *walk) turn(p *packet, inside string) (plan.Link, error) {
	endpoint := w.sandbox
	w.sandbox = w.otherEnd(endpoint, inside)
	w.begin(9, "nft list table netdev %s", plan.TableName)
	w.sandbox = endpoint
	if err := w.replied(p); err != nil {
		return plan.Link{}, err
	}
	return w.wayOut(p)
}

// replied is the reply from the endpoint into its network's sandbox, before it is routed there.
func (w *walk) replied(p *packet) error {
	w.what("the reply to %s", p.dst)
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	for _, hook := range []string{"output", "postrouting"} {
		if err := w.hook(hook, p); err != nil {
			return err
		}
	}
	if err := w.send(p, r); err != nil {
		return err
	}
	p.zone = w.flow.zone // conntrack knows the flow here
	return w.hook("prerouting", p)
}

// wayOut routes the reply to the host, from where it is taken off by its mark.
func (w *walk) wayOut(p *packet) (plan.Link, error) {
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return plan.Link{}, err
	}
	p.oif = r.link
	if err := w.forward(p); err != nil {
		return plan.Link{}, err
	}
	if err := w.hook("postrouting", p); err != nil {
		return plan.Link{}, err
	}
	l, err := w.link(r.link)
	if err != nil {
		return plan.Link{}, err
	}
	if err := w.resolve(p, l, r.next); err != nil {
		return plan.Link{}, err
	}
	device, err := w.egress(p)
	if err != nil {
		return plan.Link{}, err
	}
	if device == "" {
		return plan.Link{}, breakf("mark %s: nothing takes the reply off %s, it would leave by the host", plan.HexMark(p.mark), l.Name)
	}
	return w.link(device)
}

// otherEnd is the sandbox of a veth's other end; the same one where there is none.
func (w *walk) otherEnd(s *plan.Sandbox, link string) *plan.Sandbox {
	for _, l := range s.Links {
		for _, far := range w.node.Plan.Sandboxes {
			if l.Name == link && far.Name == l.Peer.Sandbox {
				return far
			}
		}
	}
	return s
}

// home begins hop 10 on the host of the node that the reply has reached.
func (w *walk) home() error {
	w.sandbox = &plan.Sandbox{Name: plan.HostSandbox, Kind: plan.KindHost}
	w.begin(10, "conntrack -L -d %s", w.flow.dialled)
	w.what("the reply to %s", w.flow.client)
	if w.node.Name != w.q.Entry.Name {
		return breakf("the reply went to node %s, the client dialled %s", w.node.Name, w.q.Entry.Name)
	}
	return w.enterHost(w.node)
}

// leave is the rest of hop 10: ingress-sbox and the host undo what they did.
func (w *walk) leave(p *packet) error {
	if err := w.hook("prerouting", p); err != nil {
		return err
	}
	if err := w.sendUndone(p, w.flow.uplink); err != nil {
		return err
	}
	return w.deliver(p)
}

// sendUndone forwards a reply whose source the balancer gives back on the way.
func (w *walk) sendUndone(p *packet, source netip.Addr) error {
	r := w.route(p.src, p.dst)
	if err := w.out(r, p.dst); err != nil {
		return err
	}
	p.oif = r.link
	if err := w.forwarding(p); err != nil {
		return err
	}
	for _, hook := range []string{"forward", "postrouting"} {
		if err := w.hookSpan(hook, p, span{math.MinInt, translates}); err != nil {
			return err
		}
		if hook == "postrouting" || !w.flow.nat {
			p.src = source
		}
		if err := w.hookSpan(hook, p, span{translates, math.MaxInt}); err != nil {
			return err
		}
	}
	return w.send(p, r)
}

// deliver is the host: conntrack gives the reply back its addresses.
func (w *walk) deliver(p *packet) error {
	if err := w.hook("prerouting", p); err != nil {
		return err
	}
	p.src, p.dst, p.dnat = w.flow.dialled, w.flow.client, true
	if w.q.Via == "" {
		if err := w.loopback(p.iif, p.dst); err != nil {
			return err
		}
		if err := w.hook("input", p); err != nil {
			return err
		}
	} else {
		p.oif = w.q.Via
		if err := w.forward(p); err != nil {
			return err
		}
		if err := w.hook("postrouting", p); err != nil {
			return err
		}
	}
	undo := "IPVS and conntrack undo"
	if w.flow.nat {
		undo = "conntrack undoes"
	}
	w.what("%s it: %s is answered by %s", undo, p.dst, netip.AddrPortFrom(p.src, w.q.Port))
	return nil
}

// loopback is what lets a reply to a loopback address in by a device.
func (w *walk) loopback(device string, client netip.Addr) error {
	if !client.IsLoopback() {
		return nil
	}
	if client.Is4() {
		key := "net/ipv4/conf/" + device + "/route_localnet"
		if !w.setting(key, "1") {
			return breakf("the plan does not set %s", key)
		}
		return nil
	}
	for _, r := range w.sandbox.Routes {
		if r.Kind == plan.RouteLocal && r.Dst.Contains(client) && r.Link == device {
			w.note(w.object(r))
			return nil
		}
	}
	return breakf("%s is not local on %s", client, device)
}
