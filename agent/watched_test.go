package agent

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// world is something to watch.
type world struct {
	all  seen
	told bool
}

func (w *world) Look() (seen, bool) {
	if w.told {
		return nil, false
	}
	w.told = true
	return maps.Clone(w.all), true
}

func (w *world) Forget() { w.told = false }

func watchKey(kind mesh.Kind, n int) mesh.Key {
	return mesh.Key{Kind: kind, ID: fmt.Sprintf("%016x", n)}
}

// set makes an object as it is from now on.
func (w *world) set(n int, scheduler string) {
	w.told = false
	k := watchKey(mesh.KindService, n)
	w.all[k] = &sluicev1.Change{Object: &sluicev1.Change_Service{Service: &sluicev1.Service{Id: k.ID, Scheduler: scheduler}}}
}

func (w *world) drop(n int) {
	w.told = false
	delete(w.all, watchKey(mesh.KindService, n))
}

// watcher is a reader and what it takes the world for.
type watcher struct {
	have map[string]*sluicev1.Service
	rev  uint64
}

func (r *watcher) apply(t *testing.T, changes []*sluicev1.Change) {
	t.Helper()
	for _, c := range changes {
		s := c.GetService()
		switch {
		case !c.GetDeleted():
			r.have[s.GetId()] = s
		case r.have[s.GetId()] == nil:
			t.Errorf("service %s is deleted and never was", s.GetId())
		default:
			delete(r.have, s.GetId())
		}
	}
}

// all is what there is first.
func all(t *testing.T, first *opening) (list []*sluicev1.Change) {
	t.Helper()
	for {
		part, err := first.take()
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			return list
		}
		list = append(list, part...)
	}
}

// next is one connection: it takes what is there now and ends.
func (r *watcher) next(t *testing.T, w *watched) error {
	t.Helper()
	first, from, err := w.begin(r.rev)
	if err != nil {
		return err
	}
	defer w.end(first)
	if r.rev == 0 {
		r.have = map[string]*sluicev1.Service{}
		r.apply(t, all(t, first))
		r.rev = from.last
	}
	for {
		batch, _, err := from.read()
		if err != nil || len(batch) == 0 {
			return err
		}
		for _, c := range batch {
			if c.rev != r.rev+1 {
				t.Errorf("change %d follows %d", c.rev, r.rev)
			}
			r.rev = c.rev
			r.apply(t, []*sluicev1.Change{c.Change})
		}
	}
}

// Whatever happens, and whenever readers come, go and go on, each ends with what there is.
func TestWatchersEndWithWhatThereIs(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	source := &world{all: seen{}}
	w := newWatched(source, time.Now, 1, 64)
	readers := make([]watcher, 5)
	again := 0
	for range 3000 {
		for range random.IntN(4) {
			if n := random.IntN(40); random.IntN(3) > 0 {
				source.set(n, []string{"rr", "mh"}[random.IntN(2)])
			} else {
				source.drop(n)
			}
		}
		w.turn()
		r := &readers[random.IntN(len(readers))]
		if random.IntN(6) > 0 {
			continue
		}
		switch err := r.next(t, w); mesh.ReasonOf(err) {
		case "":
		case RevisionGone, TooSlow:
			again++
			*r = watcher{}
			if err := r.next(t, w); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatal(err)
		}
		if w.turn(); r.next(t, w) != nil || len(r.have) != len(source.all) {
			t.Fatalf("a reader has %d objects of %d", len(r.have), len(source.all))
		}
		for id, s := range r.have {
			if want := source.all[mesh.Key{Kind: mesh.KindService, ID: id}]; want == nil || !proto.Equal(s, want.GetService()) {
				t.Fatalf("a reader has %v, and there is %v", s, want)
			}
		}
	}
	if again == 0 {
		t.Error("no reader was ever overtaken")
	}
}

// A reader that is overtaken is refused, and so is one that was away for so long that nobody
// looked any more.
func TestWatchIsNotKeptForEver(t *testing.T) {
	source, now := &world{all: seen{}}, time.Unix(0, 0)
	w := newWatched(source, func() time.Time { return now }, 3, 4)
	source.set(1, "rr")
	r := watcher{}
	if err := r.next(t, w); err != nil || len(r.have) != 1 {
		t.Fatalf("got %v, %v", r.have, err)
	}
	now = now.Add(watchKept - time.Second)
	source.set(2, "rr")
	if !w.turn() {
		t.Error("nobody looks for a reader that may come again")
	}
	if err := r.next(t, w); err != nil || len(r.have) != 2 {
		t.Fatalf("got %v, %v", r.have, err)
	}
	first, slow, err := w.begin(r.rev)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		source.set(n+3, "rr")
		w.turn()
	}
	if _, _, err := slow.read(); mesh.ReasonOf(err) != TooSlow {
		t.Errorf("an overtaken reader: %v", err)
	}
	w.end(first)
	r = watcher{}
	if err := r.next(t, w); err != nil || len(r.have) != 7 {
		t.Fatalf("got %v, %v", r.have, err)
	}
	now = now.Add(watchKept + time.Second)
	if w.turn() {
		t.Error("it is looked for ever")
	}
	gone := r
	if err := gone.next(t, w); mesh.ReasonOf(err) != RevisionGone {
		t.Errorf("after nobody looked: %v", err)
	}
	other := watcher{} // somebody else begins anew
	if err := other.next(t, w); err != nil || len(other.have) != 7 {
		t.Fatalf("got %v, %v", other.have, err)
	}
	if err := gone.next(t, w); mesh.ReasonOf(err) != RevisionGone {
		t.Errorf("after somebody looked again: %v", err)
	}
	if err := (&watcher{rev: 2*startSpan + 5}).next(t, w); mesh.ReasonOf(err) != RevisionGone {
		t.Errorf("with a revision of an earlier start: %v", err)
	}
}

// Readers that take nothing hold the objects of a moment only where these changed since, and for a
// minute.
func TestSlowReadersHoldLittle(t *testing.T) {
	w := scene.Crowd(t, 500)
	view := w.State.Snapshot()
	source, now := &world{all: objectsOf(view, make([]standing, len(view.Nodes)), "")}, time.Unix(0, 0)
	watched := newWatched(source, func() time.Time { return now }, 1, 64)
	held := map[*sluicev1.Change]bool{}
	var readers []*opening
	for n := range 8 {
		first, _, err := watched.begin(0)
		if err != nil {
			t.Fatal(err)
		}
		defer watched.end(first)
		readers = append(readers, first)
		for _, c := range first.rest {
			held[c] = true
		}
		source.set(n+1, "rr") // a change between two readers makes a Look that makes all anew
		for k, c := range source.all {
			source.all[k] = proto.CloneOf(c)
		}
		watched.turn()
	}
	if most := len(source.all) + len(readers); len(held) > most {
		t.Errorf("%d readers hold %d objects, of %d at most", len(readers), len(held), most)
	}
	taken, err := readers[0].take()
	if err != nil || len(taken) != ringBatch {
		t.Fatalf("took %d, %v", len(taken), err)
	}
	_ = all(t, readers[1])
	now = now.Add(openingLimit + time.Second)
	watched.turn()
	if _, err := readers[0].take(); mesh.ReasonOf(err) != TooSlow || readers[2].rest != nil {
		t.Errorf("a reader that takes nothing for a minute: %v, it holds %d", err, len(readers[2].rest))
	}
	if part, err := readers[1].take(); err != nil || len(part) != 0 {
		t.Errorf("one that took all in time: %v", err)
	}
}

// However large objects are, a message is taken by any client, and what is kept has its limit.
func TestWatchIsBoundedInBytes(t *testing.T) {
	source := &world{all: seen{}}
	w := newWatched(source, time.Now, 1, 4096)
	source.set(0, "rr")
	begun, from, err := w.begin(0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.end(begun)
	large := strings.Repeat("x", batchBytes/4)
	most := 0
	message := func(changes []*sluicev1.Change) {
		most = max(most, proto.Size(&sluicev1.WatchResponse{Changes: changes}))
	}
	for n := range 40 {
		source.set(n, large)
		w.turn()
	}
	for {
		batch, _, err := from.read()
		if err != nil {
			t.Fatal(err)
		}
		if len(batch) == 0 {
			break
		}
		message(toChanges(batch).GetChanges())
	}
	first, _, err := w.begin(0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.end(first)
	for {
		part, err := first.take()
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			break
		}
		message(part)
	}
	if most == 0 || most > 2*batchBytes {
		t.Errorf("a message has %d bytes", most)
	}
	for n := range 100 {
		source.set(n, large+"y")
		w.turn()
	}
	if w.changes.bytes > ringBytes || w.changes.bytes < ringBytes/2 {
		t.Errorf("%d bytes are kept", w.changes.bytes)
	}
	if _, _, err := from.read(); mesh.ReasonOf(err) != TooSlow {
		t.Errorf("who was overtaken by bytes: %v", err)
	}
}

// An object comes after what it names, and goes before it.
func TestWatchOrder(t *testing.T) {
	kinds := []mesh.Kind{mesh.KindNode, mesh.KindNetwork, mesh.KindService, mesh.KindEndpoint}
	objects := seen{}
	for i, kind := range kinds {
		objects[watchKey(kind, 9-i)] = &sluicev1.Change{Object: &sluicev1.Change_Node{Node: &sluicev1.Node{Id: string(kind)}}}
	}
	come, gone := seen(nil).to(objects), objects.to(seen{})
	for i, kind := range kinds {
		if come[i].GetNode().GetId() != string(kind) || come[i].GetDeleted() {
			t.Errorf("%d comes %v", i, come[i])
		}
		if last := gone[len(gone)-1-i]; last.GetNode().GetId() != string(kind) || !last.GetDeleted() {
			t.Errorf("%d from the end goes %v", i, last)
		}
	}
}

// watching reads a Watch until the world is as it is wanted, and returns the last revision.
func (a *testAgent) watching(client sluicev1.WatchServiceClient, since uint64, what string, until func(*sluicev1.Change) bool) uint64 {
	a.tb.Helper()
	stream, err := client.Watch(a.tb.Context(), &sluicev1.WatchRequest{Since: since})
	if err != nil {
		a.tb.Fatal(err)
	}
	seen := false
	for {
		resp, err := stream.Recv()
		if err != nil {
			a.tb.Fatalf("waited for %s: %v", what, err)
		}
		for _, c := range resp.GetChanges() {
			seen = seen || until(c)
		}
		if seen && resp.GetRevision() != 0 {
			return resp.GetRevision()
		}
	}
}

// A reader over TCP hears of what there is and of what another node makes, and goes on where it
// was cut.
func TestWatch(t *testing.T) {
	agents := newRemoteCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	client := sluicev1.NewWatchServiceClient(a.remoteFor(a.credsFor(trust.RoleViewer)))
	rev := a.watching(client, 0, "node n2", func(c *sluicev1.Change) bool { return c.GetNode().GetName() == "n2" })
	b.create("late", "8081:80")
	b.attachTo("late", "late.1")
	rev = a.watching(client, rev, "an endpoint of n2", func(c *sluicev1.Change) bool {
		if c.GetService().GetName() == "web" {
			t.Error("what was seen comes again")
		}
		return c.GetEndpoint().GetName() == "late.1" && c.GetEndpoint().GetNode() == "n2"
	})
	if _, err := b.services.RemoveService(t.Context(), &sluicev1.RemoveServiceRequest{Service: "late"}); err != nil {
		t.Fatal(err)
	}
	rev = a.watching(client, rev, "the end of the service", func(c *sluicev1.Change) bool {
		return c.GetService().GetName() == "late" && c.GetDeleted()
	})
	b.stop()
	a.watching(client, rev, "the silence of n2", func(c *sluicev1.Change) bool {
		return c.GetNode().GetName() == "n2" && c.GetNode().GetState() != sluicev1.NodeState_NODE_STATE_ALIVE
	})
	b.start()
	stream, err := sluicev1.NewWatchServiceClient(b.conn).Watch(t.Context(), &sluicev1.WatchRequest{Since: rev})
	if err == nil {
		_, err = stream.Recv()
	}
	refused(t, err, RevisionGone, codes.OutOfRange)
	outside := newTestAgent(t, 3)
	stream, err = sluicev1.NewWatchServiceClient(outside.conn).Watch(t.Context(), &sluicev1.WatchRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	refused(t, err, NoCluster, codes.FailedPrecondition)
}

// What a look costs, which is at all objects, and is made where something changed.
func BenchmarkWatchLook(b *testing.B) {
	w := scene.Crowd(b, 10_000)
	snap := w.State.Snapshot()
	have := objectsOf(snap, make([]standing, len(snap.Nodes)), "")
	b.ReportAllocs()
	for b.Loop() {
		now := objectsOf(snap, make([]standing, len(snap.Nodes)), "")
		now.share(have)
		have.to(now)
	}
}
