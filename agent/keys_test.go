package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// pipes is a network of which every dial is answered by one function.
type pipes func(net.Conn)

func (pipes) ListenPacket(netip.AddrPort) (net.PacketConn, error) { return nil, net.ErrClosed }
func (pipes) Listen(netip.AddrPort) (net.Listener, error)         { return nil, net.ErrClosed }
func (p pipes) Dial(context.Context, netip.AddrPort) (net.Conn, error) {
	near, far := net.Pipe()
	go p(far)
	return near, nil
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err) // of what a test needs and is not about
	}
	return value
}

// keyed is a node by its key, with a certificate of a CA.
type keyed struct {
	trust.Key
	node *mesh.Node
}

func newKeyed(n int, by *trust.Authority) keyed {
	key := trust.NewKey()
	return keyed{key, &mesh.Node{
		ID: key.ID(), Name: fmt.Sprintf("n%d", n), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}), GossipPort: 7956, VXLANPort: 4789, MTU: 1500,
		Cert: must(by.Issue(trust.RoleNode, "", key.Public(), time.Now())),
	}}
}

// writes is a record by this node.
func (k keyed) writes(r mesh.Record) mesh.Record {
	r.Version = mesh.Version{Time: mesh.Micros(time.Now()), Writer: k.ID()}
	r.Claim = r.Version.Time
	return must(gossip.Seal(r, mesh.Record{}, k.Key))
}

func (k keyed) self() mesh.Record { return k.writes(mesh.NodeRecord(k.node)) }

// rotates makes the next generation and its record.
func (k keyed) rotates(from trust.Bundle, to ...keyed) (trust.Bundle, mesh.Record) {
	remaining := []trust.PublicKey{k.Public()}
	for _, other := range to {
		remaining = append(remaining, other.Public())
	}
	next, data, err := from.Rotate(k.Key, remaining, time.Now())
	if err != nil {
		panic(err)
	}
	return next, k.writes(mesh.RotationRecord(mesh.NewRotation(k.ID(), from.Authority.Certificate(), data, nil)))
}

// succession is what a rotation's record has of it.
func succession(from trust.Bundle, r mesh.Record) []byte {
	return must(from.Authority.ReadRotation(r.Rotation.Data)).Succession
}

// cluster is this node's, in a generation, with records.
func (k keyed) cluster(tb testing.TB, in trust.Bundle, network gossip.Network, records ...mesh.Record) *cluster {
	tb.Helper()
	m := &membership{bundle: in, cert: must(in.Authority.Issue(trust.RoleNode, "", k.Public(), time.Now()))}
	c := newCluster(clusterConfig{
		Store: &mediumDisk{&Medium{key: k.Key, member: m}, func() error { return nil }}, Own: *k.node, Gossip: netip.AddrPortFrom(k.node.Addr, k.node.GossipPort),
		Network: network, Key: k.Key, Now: time.Now, Log: slog.New(slog.NewTextHandler(tb.Output(), nil)),
	}, &saved{ID: k.ID(), Key: k.Key, Member: m, Records: append(records, k.self())})
	tb.Cleanup(func() {
		if err := c.close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// From the CA that a node knows a way is found to the present one, whatever other generations
// there were beside.
func TestWayBack(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, d, f := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority)
	second, r2 := a.rotates(first, d, f)
	beside, r2b := d.rotates(first, a, f)
	third, r3 := a.rotates(second, d, f)
	c := a.cluster(t, third, nil, d.self(), f.self(), r2, r2b, r3)
	for from, want := range map[trust.Pin]int{first.Authority.Pin(): 2, second.Authority.Pin(): 1} {
		if _, got, err := c.successions(f.ID(), []trust.Pin{from}); err != nil || len(got) != want {
			t.Errorf("a way of %d steps, %v, want %d", len(got), err, want)
		}
	}
	if _, _, err := c.successions(f.ID(), []trust.Pin{beside.Authority.Pin()}); mesh.ReasonOf(err) != trust.WrongCluster {
		t.Errorf("from a generation beside: %v", err)
	}
	if from, got, err := c.successions(f.ID(), []trust.Pin{beside.Authority.Pin(), first.Authority.Pin()}); err != nil || len(got) != 2 || from != first.Authority.Pin() {
		t.Errorf("from what is known beside it: %v, %d steps, %v", from, len(got), err)
	}
	stranger := newKeyed(4, first.Authority)
	if _, _, err := c.successions(stranger.ID(), []trust.Pin{first.Authority.Pin()}); mesh.ReasonOf(err) != NodeRemoved {
		t.Errorf("for a stranger: %v", err)
	}
	// It has a record, and was no node when the second generation was made.
	c.Merge([]mesh.Record{stranger.self()})
	if _, _, err := c.successions(stranger.ID(), []trust.Pin{first.Authority.Pin()}); mesh.ReasonOf(err) != NodeRemoved {
		t.Errorf("for one that came by whoever was removed: %v", err)
	}
	// The present CA's certificate is shown to everybody: to know it proves nothing.
	if _, _, err := c.successions(stranger.ID(), []trust.Pin{third.Authority.Pin()}); err == nil {
		t.Error("who came by a removed node gets the keys for a CA's pin")
	}
}

// Who came in by a node while that was removed gets none of the next keys, though its certificate
// is good: not where another node is removed before the first new keys are taken up, either.
func TestLateComersGetNoKeys(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, out, other := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
	before, after := newKeyed(5, first.Authority), newKeyed(6, first.Authority)
	c := a.cluster(t, first, nil, b.self(), out.self(), other.self())
	c.Merge([]mesh.Record{before.self()})
	if _, err := c.removeNode("n3"); err != nil {
		t.Fatal(err)
	}
	c.Merge([]mesh.Record{after.self(), b.self()})
	if _, err := c.removeNode("n4"); err != nil {
		t.Fatal(err)
	}
	_, snap := c.membership()
	all := c.steps.of(snap)
	if len(all) != 2 {
		t.Fatalf("%d rotations", len(all))
	}
	for _, s := range all {
		if s.sealedTo(after.ID()) {
			t.Error("who came by the removed node gets the next keys")
		}
		if !s.sealedTo(b.ID()) || !s.sealedTo(before.ID()) {
			t.Error("a node of before gets no keys")
		}
	}
}

// A removed node that answers at another's address, with generations that it made by the old
// CA's key under an invented name, leads nobody astray.
func TestOldKeysLeadNobodyAstray(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b, removed, invented := newKeyed(1, first.Authority), newKeyed(2, first.Authority), newKeyed(3, first.Authority), newKeyed(4, first.Authority)
	second, r2 := a.rotates(first, b)
	evil2, e2 := invented.rotates(first)
	evil3, e3 := invented.rotates(evil2)
	creds := must(trust.NewCredentials(trust.CredentialsConfig{Key: invented.Key, Authority: evil3.Authority, Now: time.Now}))
	door := &trust.Door{
		Bundle: func() trust.Bundle { return evil3 }, Now: time.Now, Grant: func(trust.TokenID) (trust.Grant, bool) { return trust.Grant{}, false },
		Return: func(mesh.NodeID, []trust.Pin) (trust.Pin, [][]byte, error) {
			return first.Authority.Pin(), [][]byte{
				must(first.Authority.ReadRotation(e2.Rotation.Data)).Succession, must(evil2.Authority.ReadRotation(e3.Rotation.Data)).Succession,
			}, nil
		},
	}
	served := make(chan struct{}, 8)
	c := b.cluster(t, second, pipes(func(conn net.Conn) {
		_, _ = door.Serve(context.Background(), tls.Server(conn, creds.Server(trust.ProtocolReturn))) // the client's error is what is looked at
		conn.Close()
		served <- struct{}{}
	}), a.self(), a.writes(mesh.RemovalRecord(&mesh.Removal{Node: removed.ID(), Name: "n3"})), r2)
	came, err := c.comeBack(t.Context(), netip.MustParseAddrPort("192.0.2.19:7956"))
	if came || mesh.ReasonOf(err) != NodeRemoved {
		t.Errorf("came back: %v, %v", came, err)
	}
	<-served
	if c.member.bundle.Authority.Pin() != second.Authority.Pin() {
		t.Error("it believes another CA now")
	}
}

// Where gossip cannot begin by the new keys at once, it is tried again.
func TestKeysAreTakenUpAgain(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	b := newKeyed(1, first.Authority)
	_, r2 := b.rotates(first)
	c := b.cluster(t, first, pipes(func(conn net.Conn) { conn.Close() }), r2)
	r := &rotations{cluster: c, since: time.Now().Add(-time.Minute)}
	if err := r.follow(t.Context()); err == nil {
		t.Error("gossip began where it cannot listen")
	}
	c.network = gossip.Host() // the address is back
	if err := r.follow(t.Context()); err != nil || c.members == nil {
		t.Errorf("gossip did not begin again: %v", err)
	}
}

// Where the disk takes no record just when the new keys come, the others hear of the new certificate
// once it does.
func TestNewCertificateIsToldLater(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	b := newKeyed(1, first.Authority)
	next, r2 := b.rotates(first)
	c := b.cluster(t, first, gossip.Host())
	if err := c.resume(); err != nil {
		t.Fatal(err)
	}
	full, asked := errors.New("full"), 0
	c.mu.Lock()
	disk := &Medium{key: b.Key, member: c.member}
	c.store = &mediumDisk{disk, func() error { // asked before and after each write
		if disk.member.bundle.Authority.Generation() == 2 {
			asked++
		}
		if asked == 2 { // the membership is kept, and this node's record is not
			return full
		}
		return nil
	}}
	c.mu.Unlock()
	err := c.adopt(t.Context(), c.member, trust.Returned{Bundle: next, From: first.Authority, Successions: [][]byte{succession(first, r2)}})
	if !errors.Is(err, full) || c.member.bundle.Authority.Generation() != 2 {
		t.Fatalf("new keys: %v", err)
	}
	if err := c.refresh(c.snapshot(), c.member); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.snapshot().Node(b.ID()).Cert, c.creds.Certificate()) {
		t.Error("the others know the certificate of before")
	}
}

// A node that died while gossip was begun anew is not taken for alive.
func TestNobodyStaysAliveUnheard(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	b, dead := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	next, r2 := b.rotates(first, dead)
	c := b.cluster(t, first, gossip.Host(), dead.self())
	if err := c.resume(); err != nil {
		t.Fatal(err)
	}
	c.MemberAlive(dead.ID())
	if err := c.adopt(t.Context(), c.member, trust.Returned{Bundle: next, From: first.Authority, Successions: [][]byte{succession(first, r2)}}); err != nil {
		t.Fatal(err)
	}
	if c.liveness(dead.ID()).alive {
		t.Error("it is alive, by the word of a gossip that has ended")
	}
}

// New keys that come while a node leaves change nothing of it, and hold no port.
func TestLeaveBesideNewKeys(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	b := newKeyed(1, first.Authority)
	next, r2 := b.rotates(first)
	c := b.cluster(t, first, gossip.Host())
	if err := c.resume(); err != nil {
		t.Fatal(err)
	}
	m, done := c.member, make(chan error, 1)
	go func() {
		done <- c.adopt(t.Context(), m, trust.Returned{Bundle: next, From: first.Authority, Successions: [][]byte{succession(first, r2)}})
	}()
	_, _, left := c.leaveCluster(t.Context())
	if err := <-done; err != nil && mesh.ReasonOf(err) != NoCluster || left != nil {
		t.Fatalf("left: %v, new keys: %v", left, err)
	}
	if _, err := c.init(t.Context(), mesh.DefaultPool(), mesh.DefaultIngress()); err != nil {
		t.Errorf("a new cluster after it: %v", err)
	}
}

// A data directory of a cluster without a CA is named, and reset leads out.
func TestStoreOfFormat1(t *testing.T) {
	a := agentIn(t, 1, t.TempDir())
	s, _ := mustOpen(t, a.cfg.DataDir)
	err := s.db.Update(func(tx *bolt.Tx) error {
		meta := bucket(tx, bucketMeta)
		if err := meta.Put([]byte(keyFormat), []byte("1")); err != nil {
			return err
		}
		return meta.Put([]byte(keySecret), make([]byte, trust.SecretSize))
	})
	s.close()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := openStore(a.cfg.DataDir); mesh.ReasonOf(err) != DataVersion {
		t.Fatalf("it is opened: %v", err)
	}
	if _, err := a.reset(&resetMachine{}); err != nil {
		t.Fatal(err)
	}
	again, content := mustOpen(t, a.cfg.DataDir)
	defer again.close()
	if content.Member != nil {
		t.Error("it is in a cluster")
	}
}

// A store keeps the trail of its CA, and one of before there were any is read.
func TestStoreKeepsTrail(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	n := newKeyed(1, first.Authority)
	next, r2 := n.rotates(first)
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	m := &membership{
		bundle: next, cert: must(next.Authority.Issue(trust.RoleNode, "", n.Public(), time.Now())), lineage: []*trust.Authority{first.Authority.Public()},
		trail: must(trust.Trail{}.Extend(first.Authority, succession(first, r2))),
	}
	if err := s.putMembership(m, nil); err != nil {
		t.Fatal(err)
	}
	s.close()
	s, content := mustOpen(t, dir)
	if steps := content.Member.trail.Steps(); len(steps) != 1 || steps[0].Maker != n.ID() {
		t.Errorf("the trail has %d steps", len(steps))
	}
	err := s.db.Update(func(tx *bolt.Tx) error { return bucket(tx, bucketMeta).Delete([]byte(keyTrail)) })
	s.close()
	if err != nil {
		t.Fatal(err)
	}
	s, content = mustOpen(t, dir)
	defer s.close()
	if content.Member == nil || content.Member.trail.End() != nil || len(content.Member.lineage) != 1 {
		t.Errorf("a store without a trail is read as %+v", content.Member)
	}
}

// A way leads over a step that only the trail has, but not first: it does not tell for whom the
// keys were.
func TestWayOverTrail(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, d := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	second, r2 := a.rotates(first, d)
	third, r3 := a.rotates(second, d)
	c := a.cluster(t, third, nil, d.self(), r2)
	c.member.trail = must(trust.Trail{}.Extend(second.Authority, succession(second, r3)))
	if _, got, err := c.successions(d.ID(), []trust.Pin{first.Authority.Pin()}); err != nil || len(got) != 2 {
		t.Errorf("%d steps, %v", len(got), err)
	}
	if _, _, err := c.successions(d.ID(), []trust.Pin{second.Authority.Pin()}); mesh.ReasonOf(err) != trust.WrongCluster {
		t.Errorf("by the trail alone: %v", err)
	}
}

// A refusal counts where it comes from later keys, and that others agree takes it back no more.
func TestShutOut(t *testing.T) {
	first := must(trust.NewBundle(time.Now()))
	a, b := newKeyed(1, first.Authority), newKeyed(2, first.Authority)
	second, r2 := a.rotates(first) // not for b
	third, _ := a.rotates(second)
	at := netip.MustParseAddrPort("192.0.2.19:7956")
	answering := func(k keyed, in trust.Bundle, served chan<- struct{}, records ...mesh.Record) pipes {
		other := k.cluster(t, in, nil, records...)
		creds := must(other.credentials(other.member))
		return func(conn net.Conn) {
			_, _ = other.protect(other.member, creds).door.Serve(context.Background(), tls.Server(conn, creds.Server(trust.ProtocolReturn))) // the client's error is what is looked at
			conn.Close()
			served <- struct{}{}
		}
	}
	served := make(chan struct{}, 8)
	ahead := b.cluster(t, third, answering(a, second, served, b.self(), r2), a.self())
	if came, err := ahead.comeBack(t.Context(), at); came || err != nil || len(ahead.outcastProblem()) != 0 {
		t.Errorf("by one that is behind: %v, %v, %v", came, err, ahead.outcastProblem())
	}
	behind := b.cluster(t, first, answering(a, second, served, b.self(), r2), a.self())
	if came, err := behind.comeBack(t.Context(), at); came || mesh.ReasonOf(err) != NodeRemoved {
		t.Errorf("by later keys that are not for it: %v, %v", came, err)
	}
	behind.Met(a.ID(), 1)
	if len(behind.outcastProblem()) != 1 {
		t.Error("one that is as far behind has taken it back")
	}
	// Whoever answers at an address says the same by a CA that nothing leads to.
	strange := must(trust.NewBundle(time.Now()))
	for strange.Authority.Generation() < 3 {
		strange = must(strange.Next(time.Now()))
	}
	told := b.cluster(t, first, answering(newKeyed(3, strange.Authority), strange, served), a.self())
	now := time.Now()
	told.now = func() time.Time { return now }
	for _, want := range []int{0, 1} {
		if came, err := told.comeBack(t.Context(), at); came || mesh.ReasonOf(err) != NodeRemoved {
			t.Errorf("by a stranger: %v, %v", came, err)
		}
		problems := told.outcastProblem()
		if len(problems) != want || want == 1 && problems[0].reason != string(trust.WrongCluster) {
			t.Errorf("by a stranger status has %v, want %d problems", problems, want)
		}
		now = now.Add(outcastAfter)
	}
	for range 4 {
		<-served
	}
}
