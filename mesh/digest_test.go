package mesh

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sums are the bytes of all records of a state, by the digest's own measure.
func sums(s *State) map[Key]Sum {
	all := map[Key]Sum{}
	for _, r := range s.Records() {
		all[r.Key()] = r.Sum()
	}
	return all
}

// Two states have one digest if, and only if, they have the same records.
func TestDigestIsTheState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		common, extra := drawRecords(t), drawRecords(t)
		a, b := merged(append(shuffled(t, common), extra[:len(extra)/2]...)...), merged(append(shuffled(t, extra), common...)...)
		same := maps.Equal(sums(a), sums(b))
		if (a.Root() == b.Root()) != same || (a.Buckets() == b.Buckets()) != same {
			t.Fatalf("same records: %v, roots %x and %x", same, a.Root(), b.Root())
		}
		for _, r := range a.Records() {
			b.Merge(r)
		}
		for _, r := range b.Records() {
			a.Merge(r)
		}
		if a.Root() != b.Root() || !maps.Equal(sums(a), sums(b)) {
			t.Fatal("both have everything and differ")
		}
	})
}

// A digest that was kept up over many changes is the digest of what is there.
func TestDigestIsKeptUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := merged(drawRecords(t)...)
		fresh := merged(s.Records()...)
		if s.Root() != fresh.Root() {
			t.Fatal("the root differs from that of a new state")
		}
		var heads []Head
		for i := range BucketCount {
			part := s.Heads(uint8(i))
			for _, h := range part {
				if BucketOf(h.Key) != uint8(i) {
					t.Fatalf("%v is in bucket %d", h.Key, i)
				}
			}
			if !slices.IsSortedFunc(part, func(a, b Head) int { return a.Key.Compare(b.Key) }) {
				t.Fatal("heads are not in order")
			}
			heads = append(heads, part...)
		}
		if len(heads) != len(s.Records()) {
			t.Fatalf("%d heads of %d records", len(heads), len(s.Records()))
		}
		for _, h := range heads {
			if r, ok := s.Get(h.Key); !ok || r.Sum() != h.Sum || r.Version != h.Version {
				t.Fatalf("head %v of %v", h, r)
			}
		}
	})
}

// A change of any part of a record shows.
func TestSumCoversTheRecord(t *testing.T) {
	r := encoded(t, stamped(ServiceRecord(testService(1)), 5, testID[NodeID]('a', 1)))
	r.Sig = []byte("signature")
	seen := map[Sum]string{r.Sum(): "the record"}
	for name, edit := range map[string]func(*Record){
		"body":      func(r *Record) { r.Body = append(slices.Clone(r.Body), ' ') },
		"signature": func(r *Record) { r.Sig = []byte("Signature") },
		"unsigned":  func(r *Record) { r.Sig = nil },
		"moved":     func(r *Record) { r.Body, r.Sig = append(slices.Clone(r.Body), 's'), []byte("ignature") },
		"time":      func(r *Record) { r.Version.Time++ },
		"writer":    func(r *Record) { r.Version.Writer = testID[NodeID]('a', 2) },
		"kind":      func(r *Record) { r.Kind = KindNode },
		"ID":        func(r *Record) { r.ID = "c000000000000002" },
	} {
		other := r
		edit(&other)
		if was, ok := seen[other.Sum()]; ok {
			t.Errorf("another %s has the sum of %s", name, was)
		}
		seen[other.Sum()] = name
	}
}

// The buckets are part of the wire format: these keys are in these buckets for ever.
func TestBuckets(t *testing.T) {
	for k, want := range map[Key]uint8{
		{KindNode, "a000000000000001"}:        100,
		{KindNetwork, string(IngressNetwork)}: 26,
		{KindService, "c0ffee0123456789"}:     201,
	} {
		if got := BucketOf(k); got != want {
			t.Errorf("%v is in bucket %d, want %d", k, got, want)
		}
	}
	var count [BucketCount]int
	for i := range 100 * BucketCount {
		count[BucketOf(Key{KindEndpoint, testID[string]('e', i)})]++
	}
	if least, most := slices.Min(count[:]), slices.Max(count[:]); least < 50 || most > 160 {
		t.Errorf("buckets have %d to %d of 100 keys", least, most)
	}
}

func BenchmarkMerge(b *testing.B) {
	var s State
	r := encoded(b, stamped(ServiceRecord(testService(1, tcp(80))), 1, testID[NodeID]('a', 1)))
	for b.Loop() {
		r.Version.Time++
		s.Merge(r)
	}
}
