package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// The ports of the services that the matrix has none of. Each service is called by its first one's use.
const (
	rangedFirst, rangedLast = 9000, 9010 // at every address
	chosenFirst, chosenLast = 9020, 9030 // at the node's second addresses alone
	rangedMark              = 8990
	limitedPort             = 8700 // for welcome alone, at every address
	limitedAt               = 8703 // the same, at the second addresses alone
	limitedMark             = 8701
	overPort                = 8800
	overFirst, overLast     = 8810, 8815
	overMark                = 8801
	meshPort                = 8850
	meshAt                  = 8851 // at the second addresses alone
	meshMark                = 8852 // of mode host
	foreignPort             = 7777 // another program leads it to an internal network
)

// welcome is the client's other address, which alone may dial limitedPort.
func welcome(f cluster.Family) netip.Prefix {
	if f == cluster.IPv4 {
		return netip.MustParsePrefix("192.168.50.101/32")
	}
	return netip.MustParsePrefix("fd50::101/128")
}

// kindOfWorld is what differs between the nodes that parts are taken from.
type kindOfWorld string

const (
	openWorld    kindOfWorld = ""        // an IPv4 underlay, and the default settings
	sixWorld     kindOfWorld = "six"     // an IPv6 underlay
	respectWorld kindOfWorld = "respect" // the host's firewall is respected, and denies deniedPort
)

func worlds() []kindOfWorld { return []kindOfWorld{openWorld, sixWorld, respectWorld} }

// deniedPort is published, and denied by the host in respectWorld.
func deniedPort() uint16 { return publishedBy(kindOf(matrix.Routed), probe.TargetPort) }

// mutated is a node whose agent is dead, with something for each rule to be there for. The
// cluster's other node is a peer, under an underlay of one family.
type mutated struct {
	*base
	kind        kindOfWorld
	underlay    cluster.Family
	peer        *cluster.Node
	mesh, over  *resident // endpoints of both kinds of overlay: the ingress network, and one of its own
	ingress     *space.Space
	overSandbox *space.Space
	bridges     map[string]*space.Space // by network
	planned     string                  // what sluice plan prints
	ear         *ear                    // a process of the node
	at          map[string]*probe.Sniffer
	frames      map[string]*probe.Listener
}

// startMutated makes it.
func startMutated(t *testing.T, kind kindOfWorld) *mutated {
	t.Helper()
	config := cluster.Config{Count: 2, Underlay: cluster.IPv4}
	switch kind {
	case openWorld:
	case sixWorld:
		config.Underlay = cluster.IPv6
	case respectWorld:
		config.Firewall = "respect"
	}
	// Another program's bridge forwards from before: what is between it and the world is not ours.
	config.Prepared = func(ctx context.Context, c *cluster.Cluster) error {
		_, err := c.Node("n1").Run(ctx, "sysctl", "-q", "-w", "net.ipv4.conf.br7.forwarding=1", "net.ipv6.conf.br7.forwarding=1")
		return err
	}
	b := startBaseAs(t, config)
	w := &mutated{
		base: b, kind: kind, underlay: config.Underlay, peer: b.Node("n2"),
		bridges: map[string]*space.Space{}, at: map[string]*probe.Sniffer{}, frames: map[string]*probe.Listener{},
	}
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	w.publishMore(t)
	w.open(t)
	w.planned = b.sluice(t, "plan")
	for _, n := range w.Nodes { // one that only stands still holds its host locked
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, n := range w.Nodes {
			if err := n.RestartAgent(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	})
	w.ear = w.hear(t, w.node, earPort, publishedBy(0, probe.TargetPort))
	return w
}

// publishMore makes the services.
func (w *mutated) publishMore(t *testing.T) {
	t.Helper()
	for _, f := range bothFamilies() {
		if err := w.Client.Address("eth0", welcome(f)); err != nil {
			t.Fatal(err)
		}
		said(t, w.node.Space, "nft", fmt.Sprintf(
			"add table inet theirs; add chain inet theirs in { type nat hook prerouting priority -110; }; add rule inet theirs in meta nfproto %s fib daddr type local meta l4proto { tcp, udp } th dport %d dnat to %s",
			f, foreignPort, netip.AddrPortFrom(w.of("internal-target").addr(f), probe.TargetPort)))
	}
	said(t, w.Client.Space, "ip", "address", "change", welcome(cluster.IPv6).String(), "dev", "eth0", "preferred_lft", "0")
	if w.kind == respectWorld {
		said(t, w.node.Space, "nft", fmt.Sprintf(
			"add chain inet theirs denied { type filter hook input priority 0; }; add rule inet theirs denied meta l4proto { tcp, udp } th dport %d drop", deniedPort()))
	}
	for _, name := range []string{"ranged", "limited", "mesh"} {
		w.network(t, name)
	}
	w.sluice(t, "network", "create", "over")
	second4, second6 := second(cluster.IPv4).Addr().String()+":", "["+second(cluster.IPv6).Addr().String()+"]:"
	for name, ports := range map[string][]string{
		"ranged": {
			fmt.Sprintf("%[1]d-%[2]d:%[1]d-%[2]d", rangedFirst, rangedLast), fmt.Sprintf("%d:84", rangedMark),
			fmt.Sprintf("%[3]s%[1]d-%[2]d:%[1]d-%[2]d", chosenFirst, chosenLast, second4), fmt.Sprintf("%[3]s%[1]d-%[2]d:%[1]d-%[2]d", chosenFirst, chosenLast, second6),
		},
		"limited": {
			fmt.Sprintf("%d:80,source=%s,source=%s", limitedPort, welcome(cluster.IPv4), welcome(cluster.IPv6)), fmt.Sprintf("%d:84", limitedMark),
			fmt.Sprintf("%s%d:80,source=%s", second4, limitedAt, welcome(cluster.IPv4)), fmt.Sprintf("%s%d:80,source=%s", second6, limitedAt, welcome(cluster.IPv6)),
		},
		"over": {fmt.Sprintf("%d:80", overPort), fmt.Sprintf("%d:84", overMark), fmt.Sprintf("%[1]d-%[2]d:%[1]d-%[2]d", overFirst, overLast)},
		"mesh": {fmt.Sprintf("%d:84", meshMark)},
	} {
		flags := []string{"service", "create", name, "--network", name}
		for _, p := range ports {
			flags = append(flags, publish(p)...)
		}
		if name == "mesh" {
			for _, proto := range protocols() {
				flags = append(
					flags, "--publish", fmt.Sprintf("%d:80/%s", meshPort, proto),
					"--publish", fmt.Sprintf("%s%d:83/%s", second4, meshAt, proto), "--publish", fmt.Sprintf("%s%d:83/%s", second6, meshAt, proto),
				)
			}
		}
		w.sluice(t, flags...)
		w.attach(t, w.node, name, name)
	}
	w.over, w.mesh = w.of("over"), w.of("mesh")
	w.serve(t, w.of("ranged"), "ranged.1", rangedFirst+5, chosenFirst+5)
	w.serve(t, w.over, "over.1", overFirst+2)
	w.rest(t)
}

// open opens the namespaces that the node keeps, and listens wherever something may arrive.
func (w *mutated) open(t *testing.T) {
	t.Helper()
	w.ingress = w.sandbox(t, plan.IngressSandbox)
	var networks sluicev1.ListNetworksResponse
	text := w.sluice(t, "network", "ls", "-o", "json")
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal([]byte(text), &networks); err != nil {
		t.Fatalf("network ls: %v: %s", err, text)
	}
	for _, n := range networks.GetNetworks() {
		switch {
		case n.GetName() == "over":
			w.overSandbox = w.sandbox(t, plan.NetworkSandbox(n.GetVni()))
		case w.residents[n.GetName()+"-target.1"] != nil:
			w.bridges[n.GetName()] = w.sandbox(t, plan.BridgeSandbox(n.GetId()))
		}
	}
	for name, place := range map[string]probe.Place{
		"client": w.Client, "b1": w.Bridged, "peer": w.peer, "ingress": w.ingress, "over": w.overSandbox,
	} {
		s, err := probe.Sniff(place)
		if err != nil {
			t.Fatal(err)
		}
		w.at[name], w.sniffers = s, append(w.sniffers, s)
	}
	for name, r := range w.residents {
		w.at[name] = r.sniffer
	}
	w.serve(t, w.Client, "world", cluster.World)
	for _, k := range kinds() {
		for who, place := range map[string]probe.Place{"-target": w.of(k.name + "-target"), "-host": w.node} {
			l, err := probe.ListenFrames(place)
			if err != nil {
				t.Fatal(err)
			}
			w.frames[k.name+who] = l
			w.servers = append(w.servers, l.Close)
		}
	}
}

func (w *mutated) sandbox(t *testing.T, name string) *space.Space {
	t.Helper()
	s, err := w.node.Sandbox(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	w.servers = append(w.servers, s.Close)
	return s
}

// wire is a namespace's device with an address.
type wire struct {
	at   probe.Place
	name string
	mac  net.HardwareAddr
	link netip.Addr // its link-local address
}

// cardOf finds the device whose name begins so.
func wireOf(t *testing.T, at probe.Place, name string) wire {
	t.Helper()
	found := wire{at: at}
	err := at.Do(func() error {
		devices, err := net.Interfaces()
		for _, d := range devices {
			if !strings.HasPrefix(d.Name, name) || len(d.HardwareAddr) == 0 {
				continue
			}
			found.name, found.mac = d.Name, d.HardwareAddr
			addrs, err := d.Addrs()
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
					found.link = p.Addr()
				}
			}
			return nil
		}
		return err
	})
	if err != nil || found.name == "" {
		t.Fatalf("no device is called %s: %v", name, err)
	}
	return found
}
