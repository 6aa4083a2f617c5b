package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// TestMoves is an address that clients dial, as keepalived keeps one, on its way from node
// to node under open flows: all of them live on.
func TestMoves(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	testMoves(t, "nft", "sh")
}

// TestMovesIPVS is the same with the other balancer. Clients give up after seconds, and nodes
// count as dead after fewer: in a VM those have to mean something.
func TestMovesIPVS(t *testing.T) {
	feature.NeedSteady(t, append(feature.Mesh(), feature.IPVS)...)
	testMoves(t, "ipvs", "mh")
}

const (
	movesPort    = 8092
	openFlows    = 30 // of each protocol and family
	moveGoesOn   = 15 * time.Second
	resetLimit   = time.Second            // from the first packet after the state was lost
	datagramWait = 200 * time.Millisecond // for an answer; then it is sent again
	takeOver     = 500 * time.Millisecond
	clientsFrom  = 101 // last byte of the first client's address
)

func testMoves(t *testing.T, balancer, scheduler string) {
	t.Helper()
	c, done := populated(t, balancer)
	defer done()
	t.Run("OneWay", func(t *testing.T) { testOneWay(t, c) })
	m := &movesTest{Cluster: c, four: netip.MustParseAddr("192.168.50.200"), six: netip.MustParseAddr("fd50::200")}
	m.clients(t)
	port := fmt.Sprintf("%d:80", movesPort)
	mustRun(t, c.Node("n1"), "service", "create", "moving", "--scheduler", scheduler, "--publish", port+"/tcp", "--publish", port+"/udp")
	for _, n := range c.Nodes {
		if err := c.Run(t.Context(), n, "moving", "moving."+n.Name); err != nil {
			t.Fatal(err)
		}
	}
	n1, n2, n3 := c.Node("n1"), c.Node("n2"), c.Node("n3")
	m.take(t, n1)
	everybody := []string{"moving.n1", "moving.n2", "moving.n3"}
	until(t, "all endpoints answer", func() error { return m.answering(everybody) })
	t.Run("ThereAndBack", func(t *testing.T) {
		open := m.open(t, everybody...)
		for _, to := range []*cluster.Node{n2, n3, n1} {
			m.lose(t)
			m.take(t, to)
			m.goOn(t, "to "+to.Name, open)
		}
	})
	t.Run("ServerGoesOn", func(t *testing.T) { m.serverGoesOn(t, n1, n2) })
	m.lose(t)
	m.take(t, n1)
	t.Run("LostState", func(t *testing.T) { m.lostState(t) })
	t.Run("LostStateAtRandom", func(t *testing.T) {
		mustRun(t, n1, "service", "update", "moving", "--scheduler", "rr")
		m.lostState(t)
		mustRun(t, n1, "service", "update", "moving", "--scheduler", scheduler)
	})
	t.Run("EntryNodeDead", func(t *testing.T) { m.dead(t, n2, n3) })
	t.Run("EntryNodeDeadWithoutEndpoint", func(t *testing.T) {
		mustRun(t, n1, "endpoint", "detach", "moving.n1")
		m.dead(t, n1, n3)
	})
}

type movesTest struct {
	*cluster.Cluster
	four, six netip.Addr    // what clients dial
	at        *cluster.Node // who has it
}

// clients gives the client's host an address for each flow.
func (m *movesTest) clients(t *testing.T) {
	t.Helper()
	var all []netip.Prefix
	for i := range openFlows {
		all = append(all, netip.PrefixFrom(clientAddr(cluster.IPv4, i), 24), netip.PrefixFrom(clientAddr(cluster.IPv6, i), 64))
	}
	if err := m.Client.Address("eth0", all...); err != nil {
		t.Fatal(err)
	}
}

func clientAddr(f cluster.Family, i int) netip.Addr {
	last := byte(clientsFrom + i)
	if f == cluster.IPv4 {
		return netip.AddrFrom4([4]byte{192, 168, 50, last})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x50, 13: 1, 15: last})
}

func (m *movesTest) dialled(f cluster.Family) netip.AddrPort {
	if f == cluster.IPv4 {
		return netip.AddrPortFrom(m.four, movesPort)
	}
	return netip.AddrPortFrom(m.six, movesPort)
}

// take gives the address to a node, and tells the client as a gratuitous ARP would.
func (m *movesTest) take(t *testing.T, n *cluster.Node) {
	t.Helper()
	if err := n.Address("eth0", netip.PrefixFrom(m.four, 24), netip.PrefixFrom(m.six, 64)); err != nil {
		t.Fatal(err)
	}
	m.at = n
	mac := hardware(t, n)
	for _, a := range []netip.Addr{m.four, m.six} {
		if _, err := m.Client.Run(t.Context(), "ip", "neigh", "replace", a.String(), "lladdr", mac, "dev", "eth0", "nud", "reachable"); err != nil {
			t.Fatal(err)
		}
	}
}

func hardware(t *testing.T, n *cluster.Node) string {
	t.Helper()
	h, link := card(t, n)
	defer h.Close()
	return link.Attrs().HardwareAddr.String()
}

// card is a node's card on the lan, and what to change it by.
func card(t *testing.T, n *cluster.Node) (*netlink.Handle, netlink.Link) {
	t.Helper()
	h, err := n.Links()
	if err != nil {
		t.Fatal(err)
	}
	link, err := h.LinkByName("eth0")
	if err != nil {
		h.Close()
		t.Fatal(err)
	}
	return h, link
}

// lose takes the address from who has it.
func (m *movesTest) lose(t *testing.T) {
	t.Helper()
	h, link := card(t, m.at)
	defer h.Close()
	for _, p := range []string{m.four.String() + "/24", m.six.String() + "/64"} {
		a, err := netlink.ParseAddr(p)
		if err == nil {
			err = h.AddrDel(link, a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// movingFlow is an open flow and who answered it first, and saw whom.
type movingFlow struct {
	*probe.Flow
	name  string
	tcp   bool
	first probe.Answer
}

// open opens the flows; the endpoints named are all those that answer, and each does.
func (m *movesTest) open(t *testing.T, endpoints ...string) []*movingFlow {
	t.Helper()
	until(t, fmt.Sprintf("%v answer", endpoints), func() error { return m.answering(endpoints) })
	var flows []*movingFlow
	for _, proto := range []string{"tcp", "udp"} {
		for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			seen := map[string]int{}
			for i := range openFlows {
				f, err := m.one(proto, family, i)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				flows = append(flows, f)
				seen[f.first.Name]++
			}
			t.Logf("%d open flows, %s %s: %v", openFlows, proto, family, seen)
			if len(seen) != len(endpoints) {
				t.Errorf("%s %s: %v answer, want all of %v", proto, family, seen, endpoints)
			}
		}
	}
	return flows
}

func (m *movesTest) one(proto string, family cluster.Family, i int) (*movingFlow, error) {
	who := probe.Client{Place: m.Client, Local: netip.AddrPortFrom(clientAddr(family, i), 0), Wait: 2 * time.Second}
	f, err := who.Open(proto, m.dialled(family))
	if err != nil {
		return nil, err
	}
	flow := &movingFlow{Flow: f, tcp: proto == "tcp", name: fmt.Sprintf("%s by %s", proto, who.Local.Addr())}
	if flow.first, err = f.Ask(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", flow.name, err), f.Close())
	}
	if flow.first.Source.Addr() != who.Local.Addr() {
		err = fmt.Errorf("%s: the endpoint sees %s", flow.name, flow.first.Source)
	}
	return flow, err
}

// answering says nil if exactly these endpoints answer, whoever asks by the entry node of now.
func (m *movesTest) answering(endpoints []string) error {
	seen := map[string]bool{}
	for i := range openFlows {
		for _, family := range []cluster.Family{cluster.IPv4, cluster.IPv6} {
			who := probe.Client{Place: m.Client, Local: netip.AddrPortFrom(clientAddr(family, i), 0), Wait: time.Second}
			a, err := who.Get(m.dialled(family))
			if err != nil {
				return err
			}
			seen[a.Name] = true
		}
	}
	for _, name := range endpoints {
		if !seen[name] {
			return fmt.Errorf("%s does not answer, but %v", name, seen)
		}
	}
	if len(seen) != len(endpoints) {
		return fmt.Errorf("%v answer", seen)
	}
	return nil
}

// all asks every flow at the same time and waits for what each says.
func all(flows []*movingFlow, ask func(*movingFlow) error) []error {
	errs := make([]error, len(flows))
	var group sync.WaitGroup
	for i, f := range flows {
		group.Go(func() { errs[i] = ask(f) })
	}
	group.Wait()
	return errs
}

// goOn wants every flow to live on: the same connection, the same endpoint, which sees the
// same client. Who sends datagrams sends again where none is answered.
func (m *movesTest) goOn(t *testing.T, what string, flows []*movingFlow) {
	t.Helper()
	began, lived := time.Now(), map[string]int{}
	errs := all(flows, func(f *movingFlow) error { return f.livesOn(began.Add(moveGoesOn)) })
	for i, f := range flows {
		if errs[i] != nil {
			t.Errorf("%s: %s: %v", what, f.name, errs[i])
			continue
		}
		lived[f.name[:4]]++
	}
	t.Logf("%s: %v of %d live on, after %s", what, lived, len(flows), time.Since(began).Round(time.Millisecond))
}

func (f *movingFlow) livesOn(deadline time.Time) error {
	for {
		f.Wait = time.Until(deadline)
		if !f.tcp {
			f.Wait = datagramWait
		}
		a, err := f.Ask()
		if err == nil && (a.Name != f.first.Name || a.Source != f.first.Source) {
			err = fmt.Errorf("%s sees %s, before it was %s and saw %s", a.Name, a.Source, f.first.Name, f.first.Source)
		}
		if err == nil || f.tcp || time.Now().After(deadline) {
			return err
		}
		time.Sleep(datagramWait / 10)
	}
}

// dead cuts a node off that has the address, and gives it to another one, before anybody
// knows.
func (m *movesTest) dead(t *testing.T, from, to *cluster.Node) {
	t.Helper()
	m.lose(t)
	m.take(t, from)
	if name := "moving." + from.Name; from.Name != "n1" {
		mustRun(t, from, "endpoint", "detach", name)
		defer func() {
			if err := m.Run(t.Context(), from, "moving", name); err != nil {
				t.Error(err)
			}
		}()
	}
	var left []string
	for _, n := range m.Nodes {
		if n != from {
			left = append(left, "moving."+n.Name)
		}
	}
	open := m.open(t, left...)
	if err := m.Unplug(from); err != nil {
		t.Fatal(err)
	}
	m.lose(t) // it goes where nobody hears of it
	time.Sleep(takeOver)
	m.take(t, to)
	m.goOn(t, from.Name+" is dead, to "+to.Name, open)
	if err := m.PlugIn(from); err != nil {
		t.Fatal(err)
	}
	if err := m.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	m.goOn(t, from.Name+" is back", open)
	m.allAlive(t)
}

// allAlive waits until each node uses the endpoints of all others again: one that does not
// yet would pick another endpoint for a flow that comes to it.
func (m *movesTest) allAlive(t *testing.T) {
	t.Helper()
	until(t, "all nodes see all others alive", func() error {
		for _, n := range m.Nodes {
			s, err := n.Status(t.Context())
			if err != nil {
				return err
			}
			for _, peer := range s.GetPeers() {
				if peer.GetState() != sluicev1.NodeState_NODE_STATE_ALIVE {
					return fmt.Errorf("%s sees %s as %s", n.Name, peer.GetName(), peer.GetState())
				}
			}
		}
		return m.Settle(t.Context())
	})
}

// lostState lets conntrack forget everything, in one place after the other: datagrams go on,
// and a connection does so or is reset, soon.
func (m *movesTest) lostState(t *testing.T) {
	t.Helper()
	for _, n := range m.Nodes {
		places := []string{n.Name + ", host", n.Name + ", ingress-sbox", n.Name + ", ingress network"}
		for i, where := range []*space.Space{n.Space, n.Ingress, m.network(t, n)} {
			name := places[i]
			open := m.open(t, "moving.n1", "moving.n2", "moving.n3")
			if _, err := where.Run(t.Context(), "conntrack", "-F"); err != nil {
				t.Fatal(err)
			}
			outcomes := map[string]int{}
			for i, err := range all(open, (*movingFlow).endsSoon) {
				outcomes[open[i].name[:4]+probe.Outcome(err)]++
				if o := probe.Outcome(err); o != "answered" && (!open[i].tcp || o != "reset") {
					t.Errorf("%s forgot its flows: %s: %s", name, open[i].name, o)
				}
			}
			t.Logf("%s forgot its flows: %v", name, outcomes)
		}
	}
}

// network is the sandbox of the ingress network on a node, which came with its endpoint.
func (m *movesTest) network(t *testing.T, n *cluster.Node) *space.Space {
	t.Helper()
	status, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range status.GetSandboxes() {
		if strings.HasPrefix(s.GetName(), plan.NetworkSandboxes+"1048576") {
			where, err := space.Open(s.GetPath())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { where.Close() })
			return where
		}
	}
	t.Fatalf("%s has no sandbox of the ingress network", n.Name)
	return nil
}

// endsSoon asks once.
func (f *movingFlow) endsSoon() error {
	f.Wait = resetLimit
	_, err := f.Ask()
	return err
}
