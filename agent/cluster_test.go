package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// clock is a wall clock that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = t
}

func testID[T ~string](kind byte, n int) T {
	return T(fmt.Sprintf("%c%0*x", kind, mesh.IDLength-1, n))
}

// someMembership is that of a node that nobody else knows.
func someMembership(tb testing.TB) *membership {
	tb.Helper()
	bundle, err := trust.NewBundle(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := bundle.Authority.Issue(trust.RoleNode, "", trust.NewKey().Public(), time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return &membership{bundle: bundle, cert: cert}
}

// otherToken is a good one of another cluster.
func otherToken(tb testing.TB) string {
	tb.Helper()
	token, _, err := newToken(someMembership(tb).bundle.Authority, trust.RoleNode, time.Now().Add(time.Hour))
	if err != nil {
		tb.Fatal(err)
	}
	return token.Text()
}

// member is node 1's cluster of a world, without gossip.
func member(t *testing.T, w *scene.World, clock *clock) (*cluster, string) {
	t.Helper()
	dir := t.TempDir()
	s, _ := mustOpen(t, dir)
	t.Cleanup(func() { s.close() })
	kept := someMembership(t)
	if err := s.putMembership(kept, w.State.Records()); err != nil {
		t.Fatal(err)
	}
	return newCluster(clusterConfig{
		Store: s, Own: *w.State.Snapshot().Node(scene.NodeID(1)), Gossip: netip.MustParseAddrPort("192.0.2.11:7956"),
		Now: clock.now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, &saved{ID: scene.NodeID(1), Member: kept, Records: w.State.Records()}), dir
}

func service(name string, n int, networks ...mesh.NetworkID) mesh.Record {
	return mesh.ServiceRecord(&mesh.Service{ID: testID[mesh.ServiceID]('c', n), Name: name, Scheduler: mesh.RoundRobin, Networks: networks})
}

func writes(records ...mesh.Record) func(*mesh.Snapshot) ([]mesh.Record, error) {
	return func(*mesh.Snapshot) ([]mesh.Record, error) { return records, nil }
}

// A claim is as old as the first write, and a later write is later whatever the
// wall clock says.
func TestWritesAreStamped(t *testing.T) {
	clock := &clock{at: time.Unix(1000, 0)}
	c, _ := member(t, scene.New(t, 1), clock)
	rev, err := c.update(writes(service("web", 1)))
	if err != nil || rev != c.snapshot().Rev {
		t.Fatalf("update: revision %d of %d, %v", rev, c.snapshot().Rev, err)
	}
	first, _ := c.state.Get(service("web", 1).Key())
	clock.set(time.Unix(10, 0))
	if _, err := c.update(writes(service("web", 1, testID[mesh.NetworkID]('b', 1)))); err != nil {
		t.Fatal(err)
	}
	second, _ := c.state.Get(service("web", 1).Key())
	if first.Version.Time != 1000e6 || first.Claim != 1000e6 || first.Version.Writer != scene.NodeID(1) {
		t.Fatalf("first write is %+v", first)
	}
	if second.Version.Time != first.Version.Time+1 || second.Claim != first.Claim || len(second.Service.Networks) != 1 {
		t.Fatalf("second write is %+v after %+v", second, first)
	}
}

// A wall clock that is set back between a decision and its write makes no claim of the future.
func TestClockIsSetBackWithinWrite(t *testing.T) {
	at := &clock{at: time.Unix(1000, 0)}
	c, _ := member(t, scene.New(t, 1), at)
	_, err := c.update(func(*mesh.Snapshot) ([]mesh.Record, error) {
		at.set(time.Unix(2000, 0))
		own := c.ownNode()
		own.Slot, own.SlotClaim = 7, c.tick()
		at.set(time.Unix(1001, 0))
		return []mesh.Record{mesh.NodeRecord(own)}, nil
	})
	if err != nil || c.snapshot().Node(c.own.ID).Slot != 7 {
		t.Errorf("the slot is %d, %v", c.snapshot().Node(c.own.ID).Slot, err)
	}
}

func TestInvalidWriteChangesNothing(t *testing.T) {
	c, dir := member(t, scene.New(t, 1), &clock{at: time.Unix(1000, 0)})
	before := c.snapshot().Rev
	if _, err := c.update(writes(service("web", 1), service("a b", 2))); mesh.ReasonOf(err) != mesh.BadName {
		t.Fatalf("update: %v, want %s", err, mesh.BadName)
	}
	if after := c.snapshot().Rev; after != before {
		t.Fatalf("revision %d became %d", before, after)
	}
	c.store.close()
	for _, r := range reopened(t, dir).Records {
		if r.Kind == mesh.KindService {
			t.Fatalf("%s is on the disk", r.Service.Name)
		}
	}
}

// What decide saw is still so when its records are written.
func TestUpdateIsOneStep(t *testing.T) {
	c, _ := member(t, scene.New(t, 1), &clock{at: time.Unix(1000, 0)})
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			c.update(func(snap *mesh.Snapshot) ([]mesh.Record, error) {
				if snap.ServiceNamed("web") != nil {
					return nil, nil
				}
				return []mesh.Record{service("web", n)}, nil
			})
		})
	}
	wg.Wait()
	if n := len(c.snapshot().Services); n != 1 {
		t.Fatalf("%d services are called web", n)
	}
}

func TestMergeFromPeers(t *testing.T) {
	w := scene.New(t, 3)
	c, _ := member(t, w, &clock{at: time.Unix(1000, 0)})
	<-drained(c.changed)
	w.Service("web", nil)
	good := w.State.Records()
	bad := good[len(good)-1]
	bad.Version.Writer = ""
	fresh := c.Merge(append(good, bad))
	if len(fresh) != 1 || fresh[0].Kind != mesh.KindService {
		t.Fatalf("fresh are %v", fresh)
	}
	if again := c.Merge(good); again != nil {
		t.Fatalf("fresh again are %v", again)
	}
	select {
	case <-c.changed:
	default:
		t.Fatal("the loop was not woken")
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.12:7956"), netip.MustParseAddrPort("192.0.2.13:7956")}
	if diff := cmp.Diff(want, c.Peers(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Fatalf("peers differ:\n%s", diff)
	}
}

func drained(c chan struct{}) chan struct{} {
	select {
	case c <- struct{}{}:
	default:
	}
	return c
}

// An own write brings to the disk what it was decided from.
func TestWriteSavesWhatItStandsOn(t *testing.T) {
	w := scene.New(t, 2)
	c, dir := member(t, w, &clock{at: time.Unix(1000, 0)})
	s := w.Service("web", nil)
	c.Merge(w.State.Records())
	e := &mesh.Endpoint{ID: testID[mesh.EndpointID]('d', 1), Name: "web.1", Service: s, Node: scene.NodeID(1), State: mesh.Ready, Weight: 1}
	if _, err := c.update(writes(mesh.EndpointRecord(e))); err != nil {
		t.Fatal(err)
	}
	c.store.close() // as a crash would, before the loop came to flush
	records := reopened(t, dir).Records
	for _, kind := range []mesh.Kind{mesh.KindService, mesh.KindEndpoint} {
		if !slices.ContainsFunc(records, func(r mesh.Record) bool { return r.Kind == kind }) {
			t.Fatalf("no %s is on the disk", kind)
		}
	}
}

// Records that come in before this node is a member do not count.
func TestMergeOutside(t *testing.T) {
	c, _ := member(t, scene.New(t, 1), &clock{at: time.Unix(1000, 0)})
	c.abandon()
	if fresh := c.Merge(scene.New(t, 3).State.Records()); fresh != nil || c.Count() != 0 {
		t.Fatalf("merged %v", fresh)
	}
	if _, err := c.update(writes(service("web", 1))); mesh.ReasonOf(err) != NoCluster {
		t.Fatalf("update: %v, want %s", err, NoCluster)
	}
}

func TestSilenceRemovesNothing(t *testing.T) {
	clock := &clock{at: time.Unix(1000, 0)}
	c, _ := member(t, scene.New(t, 2), clock)
	if seen := c.liveness(scene.NodeID(2)); seen.alive || seen.since != clock.now() {
		t.Fatalf("a node that was never met is %v", seen)
	}
	c.MemberAlive(scene.NodeID(2))
	clock.set(time.Unix(2000, 0))
	c.MemberAlive(scene.NodeID(2))
	if seen := c.liveness(scene.NodeID(2)); !seen.alive || seen.since != time.Unix(1000, 0) {
		t.Fatalf("a node that was met is %v", seen)
	}
	c.MemberSilent(scene.NodeID(2))
	if seen := c.liveness(scene.NodeID(2)); seen.alive || seen.since != time.Unix(2000, 0) || len(c.snapshot().Nodes) != 2 {
		t.Fatalf("a node that fell silent is %v", seen)
	}
	if !c.liveness(scene.NodeID(1)).alive {
		t.Fatal("this node finds itself silent")
	}
}

func TestStartTime(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	for name, c := range map[string]struct {
		stat string
		want uint64
		ok   bool
	}{
		"plain":    {"42 (cat)" + tail, 777, true},
		"brackets": {"42 (a) S 9 (b c)" + tail, 777, true},
		"cut":      {"42 (cat) S 1 2", 0, false},
		"empty":    {"", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := startTime([]byte(c.stat)); got != c.want || (err == nil) != c.ok {
				t.Fatalf("startTime(%q) = %d, %v", c.stat, got, err)
			}
		})
	}
}

func TestSettlePause(t *testing.T) {
	for round, want := range map[time.Duration]time.Duration{
		0: settleMin, 50 * time.Millisecond: 50 * time.Millisecond, time.Second: settleMax,
	} {
		if got := settlePause(round); got != want {
			t.Errorf("settlePause(%s) = %s, want %s", round, got, want)
		}
	}
}

func TestLookPause(t *testing.T) {
	for round, want := range map[time.Duration]time.Duration{
		0: fullLook, 250 * time.Millisecond: fullLook, 300 * time.Millisecond: 6 * time.Second, time.Second: rareLook,
	} {
		if got := lookPause(round); got != want {
			t.Errorf("lookPause(%s) = %s, want %s", round, got, want)
		}
	}
}
