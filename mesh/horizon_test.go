package mesh

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const day = syncedPeriod

// member is a node of a model: its view, what it remembers of the others, and its own clock.
type member struct {
	id       NodeID
	state    State
	contacts Contacts
	skew     uint64
	away     bool
	gone     bool
	had      map[string]bool // tombstones that it has had
}

// model is a cluster whose nodes talk now and then.
type model struct {
	t       *rapid.T
	now     uint64
	members []*member
	tombs   []Record
	ids     int
}

func (m *model) pick(label string, ok func(*member) bool) *member {
	var able []*member
	for _, x := range m.members {
		if !x.gone && ok(x) {
			able = append(able, x)
		}
	}
	if len(able) == 0 {
		return nil
	}
	return rapid.SampledFrom(able).Draw(m.t, label)
}

func present(x *member) bool { return !x.away }
func anybody(*member) bool   { return true }

func (m *model) merge(x *member, r Record) {
	if r.Deleted {
		x.had[fmt.Sprint(r.Key(), r.Version)] = true
	}
	x.state.Merge(r)
}

func (m *model) write(x *member, r Record) {
	r = stamped(r, Tick(x.state.Seen(), m.now+x.skew), x.id)
	if r.Validate() != nil {
		m.t.Fatalf("%v", r.Validate())
	}
	if r.Deleted {
		m.tombs = append(m.tombs, r)
	}
	m.merge(x, encoded(m.t, r))
	x.state.Expire()
}

func (m *model) service(x *member, label string) *Service {
	if all := x.state.Snapshot().Services; len(all) > 0 {
		return rapid.SampledFrom(all).Draw(m.t, label)
	}
	return nil
}

// exchange gives both everything that either has.
func (m *model) exchange(a, b *member) {
	if a == nil || b == nil || a == b {
		return
	}
	atA, atB := a.state.Now(m.now+a.skew), b.state.Now(m.now+b.skew)
	ofA, ofB := a.state.Records(), b.state.Records()
	for _, r := range shuffled(m.t, ofA) {
		m.merge(b, r)
	}
	for _, r := range shuffled(m.t, ofB) {
		m.merge(a, r)
	}
	a.state.Expire()
	b.state.Expire()
	a.contacts.Met(b.id, atB)
	b.contacts.Met(a.id, atA)
}

// say lets a node write until when it is in sync.
func (m *model) say(x *member) {
	until, _ := x.contacts.Synced(&x.state, x.id, Tick(x.state.Seen(), m.now+x.skew)-1)
	have, ok := x.state.Get(Key{KindNode, string(x.id)})
	if ok && have.Node != nil && until > have.Node.Synced {
		n := have.Node.clone()
		n.Synced = until
		m.write(x, NodeRecord(n))
	}
}

func (m *model) join() {
	if len(m.members) == 12 {
		return
	}
	n := len(m.members) + 1
	x := &member{id: testID[NodeID]('a', n), had: map[string]bool{}, skew: uint64(rapid.IntRange(0, 3).Draw(m.t, "skew")) * day / 4}
	own := testNode(n)
	if seed := m.pick("seed", present); seed != nil {
		for _, r := range shuffled(m.t, seed.state.Records()) {
			m.merge(x, r)
		}
		m.write(x, NodeRecord(own))
		m.members = append(m.members, x)
		m.exchange(seed, x)
	} else if n == 1 {
		m.write(x, NodeRecord(own))
		m.members = append(m.members, x)
	}
}

func (m *model) step() {
	switch rapid.IntRange(0, 13).Draw(m.t, "step") {
	case 0, 1:
		m.ids++
		m.write(m.pick("writer", anybody), ServiceRecord(testService(m.ids)))
	case 2, 3:
		if x := m.pick("deleter", anybody); x != nil {
			if s := m.service(x, "deleted"); s != nil {
				m.write(x, deleted(ServiceRecord(s), 0))
			}
		}
	case 4:
		if x := m.pick("changer", anybody); x != nil {
			if s := m.service(x, "changed"); s != nil {
				m.write(x, ServiceRecord(s))
			}
		}
	case 5, 6, 7:
		m.exchange(m.pick("one", present), m.pick("other", present))
	case 8:
		a, b := m.pick("from", present), m.pick("to", present)
		if a != nil && len(a.state.Records()) > 0 {
			m.merge(b, rapid.SampledFrom(a.state.Records()).Draw(m.t, "datagram"))
			b.state.Expire()
		}
	case 9:
		m.now += uint64(rapid.IntRange(1, 30).Draw(m.t, "days")) * day
	case 10:
		for _, x := range m.members {
			if !x.gone && rapid.IntRange(0, 4).Draw(m.t, "speaks") > 0 {
				m.say(x)
			}
		}
	case 11:
		x := m.pick("moves", anybody)
		x.away = !x.away
	case 12:
		x, by := m.pick("removed", anybody), m.pick("by", present)
		if by != nil && x != by {
			// What it alone knows is lost with it.
			x.gone = true
			m.write(by, deleted(NodeRecord(testNode(slices.Index(m.members, x)+1)), 0))
		}
	default:
		if rapid.Bool().Draw(m.t, "restart") {
			x := m.pick("restarted", anybody)
			x.contacts, x.state = Contacts{}, *merged(shuffled(m.t, x.state.Records())...)
		} else {
			m.join()
		}
	}
}

// heal lets all talk until all have all. A node that was removed and is there again, since it
// had written what the remover did not know, is removed once more.
func (m *model) heal() []*member {
	all := m.meet()
	for i, x := range m.members {
		if r, ok := all[0].state.Get(Key{KindNode, string(x.id)}); x.gone && ok && !r.Deleted {
			m.write(all[0], deleted(NodeRecord(testNode(i+1)), 0))
		}
	}
	return m.meet()
}

func (m *model) meet() []*member {
	var all []*member
	for _, x := range m.members {
		if !x.gone {
			x.away = false
			all = append(all, x)
		}
	}
	for range 3 {
		for i, a := range all {
			for _, b := range all[i+1:] {
				m.exchange(a, b)
			}
		}
	}
	return all
}

func (m *model) agree(all []*member) {
	for _, x := range all {
		if x.state.Root() != all[0].state.Root() {
			m.t.Fatalf("%s and %s differ:\n%v\n%v", x.id, all[0].id, keysOf(&x.state), keysOf(&all[0].state))
		}
	}
	for _, tomb := range m.tombs {
		known := slices.ContainsFunc(all, func(x *member) bool { return x.had[fmt.Sprint(tomb.Key(), tomb.Version)] })
		if r, ok := all[0].state.Get(tomb.Key()); known && ok && !r.Deleted && r.Version.Compare(tomb.Version) < 0 {
			m.t.Fatalf("%s %s of %d is back, it was deleted at %d", r.Kind, r.ID, r.Version.Time, tomb.Version.Time)
		}
	}
}

func keysOf(s *State) []string {
	var keys []string
	for _, r := range s.Records() {
		keys = append(keys, fmt.Sprint(r.Kind, " ", r.ID, " ", r.Version.Time, " ", r.Deleted))
	}
	return keys
}

// However long nodes are away, whatever is removed and whoever joins: nothing that was deleted
// comes back, all agree, and in the end no tombstone is left.
func TestDeletesStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, now: 1000 * day}
		for range rapid.IntRange(1, 4).Draw(t, "nodes") {
			m.join()
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step()
		}
		all := m.heal()
		m.agree(all)
		for range 2 { // a node that has left is confirmed, then forgotten
			m.now += 16 * day
			m.heal()
			for _, x := range all {
				m.say(x)
			}
			m.agree(m.heal())
		}
		for _, r := range all[0].state.Records() {
			if r.Deleted {
				t.Fatalf("%s %s of %d is still there, expiry is %d", r.Kind, r.ID, r.Version.Time, all[0].state.Expiry())
			}
		}
	})
}

// Even where nodes say what is not so, those that give each other everything agree soon, and
// then leave each other alone.
func TestExchangesEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() *State {
			var s State
			for _, r := range drawRecords(t) {
				r.Version.Time += uint64(rapid.IntRange(0, 40).Draw(t, "day")) * day
				if r.Node != nil {
					r.Node.Synced = uint64(rapid.IntRange(0, 40).Draw(t, "synced")) * day
					r.Node.Synced = min(r.Node.Synced, r.Version.Time)
				}
				s.Merge(encoded(t, r))
			}
			s.Expire()
			return &s
		}
		a, b := draw(), draw()
		for range 3 {
			ofA, ofB := a.Records(), b.Records()
			for _, r := range shuffled(t, ofA) {
				b.Merge(r)
			}
			for _, r := range shuffled(t, ofB) {
				a.Merge(r)
			}
			a.Expire()
			b.Expire()
		}
		if a.Root() != b.Root() {
			t.Fatalf("%v and %v", keysOf(a), keysOf(b))
		}
		if fresh := merged(a.Records()...); fresh.Root() != a.Root() {
			t.Fatalf("%v becomes %v on the disk", keysOf(a), keysOf(fresh))
		}
		for _, r := range a.Records() {
			if a.Merge(r) || r.Deleted && r.Version.Time <= a.Expiry() {
				t.Fatalf("%v of %v", r, keysOf(a))
			}
		}
	})
}

// A node tells of a deletion to one other, and leaves: that one keeps it until it has met the rest
// again, whom the other told nothing.
func TestTombstoneOfOneThatLeft(t *testing.T) {
	a, b, c := testID[NodeID]('a', 1), testID[NodeID]('a', 2), testID[NodeID]('a', 3)
	node := func(n int, at, synced uint64) Record {
		x := testNode(n)
		x.Synced = synced
		return stamped(NodeRecord(x), at, x.ID)
	}
	service := ServiceRecord(testService(1))
	tomb := deleted(stamped(service, 2*day, c), 2*day)
	s := merged(stamped(service, day, a), node(1, 30*day, 29*day), node(2, 30*day, 29*day), node(3, day, day))
	if s.Merge(tomb); len(s.Expire()) != 0 || s.Expiry() != 0 {
		t.Fatalf("expiry is %d, and one node is not in sync", s.Expiry())
	}
	s.Merge(deleted(stamped(NodeRecord(testNode(3)), 31*day, a), 31*day))
	if have, _ := s.Get(service.Key()); len(s.Expire()) != 0 || !have.Deleted || s.Expiry() != 0 {
		t.Fatalf("expiry is %d, %+v", s.Expiry(), have)
	}
	s.Merge(node(1, 33*day, 32*day))
	s.Merge(node(2, 33*day, 32*day))
	got := s.Expire()
	if _, ok := s.Get(service.Key()); ok || s.Expiry() != 32*day-horizonMicros {
		t.Fatalf("expiry is %d", s.Expiry())
	}
	if !slices.Equal(got, []Key{service.Key()}) || s.Expire() != nil {
		t.Errorf("dropped are %v", got)
	}
	if s.Merge(tomb) || s.Merge(deleted(stamped(ServiceRecord(testService(2)), 3*day, b), 3*day)) {
		t.Error("an old tombstone counts")
	}
	if s.Merge(deleted(stamped(ServiceRecord(testService(2)), 20*day, b), 20*day)); len(s.Records()) != 4 {
		t.Errorf("%v", keysOf(s))
	}
}

// A node that has what another, long away, has not seen deleted keeps it over a restart, in
// whatever order the disk gives the records.
func TestTombstonesOutliveARestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own, away := testNode(1), testNode(2)
		own.Synced = 50 * day
		tomb := deleted(stamped(ServiceRecord(testService(1)), 2*day, own.ID), 2*day)
		s := merged(shuffled(t, []Record{tomb, stamped(NodeRecord(own), 51*day, own.ID), stamped(NodeRecord(away), day, away.ID)})...)
		if _, ok := s.Get(tomb.Key()); !ok {
			t.Fatal("the tombstone is lost")
		}
	})
}

// A node says that it is in sync once a day, and soon after one has left.
func TestSyncedIsDue(t *testing.T) {
	a, b, c := testID[NodeID]('a', 1), testID[NodeID]('a', 2), testID[NodeID]('a', 3)
	own := testNode(1)
	own.Synced = 10 * day
	s := merged(stamped(NodeRecord(own), 10*day, a), stamped(NodeRecord(testNode(2)), 1, b), stamped(NodeRecord(testNode(3)), 1, c))
	var met Contacts
	check := func(now, want uint64, wantDue bool) {
		t.Helper()
		if until, due := met.Synced(s, a, now); until != want || due != wantDue {
			t.Errorf("until %d, due %v", until, due)
		}
	}
	check(20*day, 10*day, false) // nobody met
	met.Met(b, 20*day)
	check(20*day, 10*day, false) // not all
	met.Met(c, 10*day+day/2)
	check(20*day, 10*day+day/2, false)
	met.Met(c, 9*day) // late news
	s.Merge(deleted(stamped(NodeRecord(testNode(2)), 10*day+day/4, c), 10*day+day/4))
	check(20*day, 10*day+day/2, true)
	met.Met(c, 12*day)
	check(20*day, 12*day, true)
	check(11*day, 11*day, true) // not ahead of itself
	alone := merged(stamped(NodeRecord(testNode(1)), 1, a))
	if until, due := new(Contacts).Synced(alone, a, 5*day); until != 5*day || !due {
		t.Errorf("alone: until %d, due %v", until, due)
	}
}
