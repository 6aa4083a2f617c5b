package gossip

import (
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

func senders(n int) []mesh.Sender {
	list := make([]mesh.Sender, n)
	for i := range list {
		list[i] = mesh.Sender{Proto: mesh.UDP, Client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), uint16(1+i%60000))}
	}
	return list
}

// Word that flows are over reaches those that it is for, in as many messages as it takes.
func TestFlowsOverReach(t *testing.T) {
	nodes := cluster(t, 3)
	over := mesh.Over{Node: nodes[0].id, Senders: senders(mesh.OverLimit + 10)}
	if err := nodes[0].TellOver(t.Context(), over, []mesh.NodeID{nodes[0].id, nodes[1].id, nodeID(9)}); err != nil {
		t.Fatal(err)
	}
	heard := func(n *node) []mesh.Over {
		n.memory.mu.Lock()
		defer n.memory.mu.Unlock()
		return slices.Clone(n.over)
	}
	within(t, 5*time.Second, "the second node has heard it", func() bool { return len(heard(nodes[1])) == 2 })
	got := heard(nodes[1])
	slices.SortFunc(got, func(a, b mesh.Over) int { return len(b.Senders) - len(a.Senders) }) // each has a stream of its own
	if all := append(got[0].Senders, got[1].Senders...); got[0].Node != over.Node || !slices.Equal(all, over.Senders) {
		t.Errorf("heard of %d flows of %s", len(all), got[0].Node)
	}
	if got := heard(nodes[2]); len(got) > 0 {
		t.Errorf("it was not for the third node, which heard %d words", len(got))
	}
}

// What cannot be said is refused before it is sent, and what is not that is refused when it comes.
func TestFlowsOverHostile(t *testing.T) {
	nodes := cluster(t, 1)
	if err := nodes[0].TellOver(t.Context(), mesh.Over{Node: "x", Senders: senders(1)}, nil); err == nil {
		t.Error("a node without an ID has said something")
	}
	const node = `"k":"over","w":"a000000000000001"`
	for _, text := range []string{
		`{"w":"a000000000000001","s":[{"x":"udp","c":"192.0.2.1:5"}]}`,
		``, `{`, `[]`, `null`, `{}`, `{` + node + `}`, `{` + node + `,"s":[]}`,
		`{"k":"over","w":"../../x","s":[{"x":"udp","c":"192.0.2.1:5"}]}`,
		`{` + node + `,"s":[{"x":"icmp","c":"192.0.2.1:5"}]}`,
		`{` + node + `,"s":[{"x":"udp","c":"192.0.2.1:0"}]}`,
		`{` + node + `,"s":[{"x":"udp","c":"[::ffff:192.0.2.1]:5"}]}`,
		`{` + node + `,"s":[{"x":"udp","c":"[fe80::1%eth0]:5"}]}`,
		`{` + node + `,"s":[{"x":"udp"}]}`,
		`{` + node + `,"o":"since yesterday","s":[{"x":"udp","c":"192.0.2.1:5"}]}`,
		`{` + node + `,"s":[` + strings.Repeat(`{"x":"udp","c":"192.0.2.1:5"},`, mesh.OverLimit) + `{"x":"udp","c":"192.0.2.1:5"}]}`,
	} {
		if over, err := decodeOver(append([]byte{overVersion}, text...), nil); err == nil {
			t.Errorf("%.80s is %+v", text, over)
		}
		nodes[0].in.over(append([]byte{overVersion}, text...))
	}
	if len(nodes[0].over) > 0 {
		t.Errorf("heard %+v", nodes[0].over)
	}
}

// Who has the key of gossip can send a word again, to whom he likes and whenever he likes: it
// does nothing.
func TestFlowsOverAreNotReplayed(t *testing.T) {
	network := newMemnet()
	sign := func(n int) func(*Config) {
		return func(c *Config) { c.Signer, c.Verifier = seals{nodeID(n)}, verifier{} }
	}
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(3 * time.Minute) // memberlist's probes run on after Close
		nodes := []*node{startIn(t, network, 1, sign(1)), startIn(t, network, 2, sign(2)), startIn(t, network, 3, sign(3))}
		defer func() {
			for _, n := range nodes {
				n.Close()
			}
		}()
		for _, n := range nodes[1:] {
			if _, err := n.Join(t.Context(), nodes[0].addr); err != nil {
				t.Fatal(err)
			}
		}
		say := func(i int) []byte {
			msg, err := nodes[0].say(mesh.Over{Node: nodeID(1), Senders: senders(1 + i)}, nodeID(2))
			if err != nil {
				t.Fatal(err)
			}
			return msg
		}
		count := func(n *node) int { return locked(n.memory, func() int { return len(n.over) }) }
		time.Sleep(time.Second)
		deliver := func(n *node, msg []byte) { n.in.NotifyMsg(msg); synctest.Wait() }
		first, second := say(1), say(2)
		deliver(nodes[1], second)
		deliver(nodes[1], first) // two streams may overtake one another
		if count(nodes[1]) != 2 {
			t.Fatalf("%d words were taken", count(nodes[1]))
		}
		deliver(nodes[1], first)
		deliver(nodes[1], second)
		deliver(nodes[2], second)
		if count(nodes[1]) != 2 || count(nodes[2]) != 0 {
			t.Errorf("a word was taken again: %d and %d", count(nodes[1]), count(nodes[2]))
		}
		nodes[1].Close()
		nodes[1] = startIn(t, network, 2, sign(2))
		if _, err := nodes[1].Join(t.Context(), nodes[0].addr); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		deliver(nodes[1], first)
		if count(nodes[1]) != 0 {
			t.Error("a word of before the start was taken")
		}
		deliver(nodes[1], say(3))
		if count(nodes[1]) != 1 {
			t.Error("a word to the node as it is now was not taken")
		}
	})
}

// A node that has yet to be updated says its words without a number. That is no alarm.
func TestFlowsOverOfTheVersionBefore(t *testing.T) {
	d := newDelegate(Config{ID: nodeID(1), State: newMemory()}, newQueue(func() int { return 1 }), newLogbook(slog.New(slog.DiscardHandler)))
	for name, c := range map[string]struct {
		said word
		want mesh.Reason
	}{
		"as before":            {word{}, UnknownVersion},
		"for another node":     {word{to: nodeID(7), stay: *d.stay.Load(), number: 1}, Replayed},
		"for a node of before": {word{to: d.self, number: 1}, Replayed},
		"for now":              {word{to: d.self, stay: *d.stay.Load(), number: 1}, ""},
	} {
		c.said.Over = mesh.Over{Node: nodeID(2), Senders: senders(1)}
		if err := d.fresh(c.said); mesh.ReasonOf(err) != c.want {
			t.Errorf("a word %s: %v", name, err)
		}
	}
}

// However many nodes are told at once, what one of them hears second does not put the first out.
func TestWordsToManyMayOvertake(t *testing.T) {
	nodes := cluster(t, 2)
	say := func(n, to int) []byte {
		msg, err := nodes[0].say(mesh.Over{Node: nodes[0].id, Senders: senders(n)}, nodeID(to))
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	first := say(1, 2)
	for i := range 2 * windowSize {
		say(1, 10+i)
	}
	nodes[1].in.NotifyMsg(say(2, 2))
	nodes[1].in.NotifyMsg(first)
	within(t, 5*time.Second, "both words were taken", func() bool {
		return locked(nodes[1].memory, func() bool { return len(nodes[1].over) == 2 })
	})
}

// The numbers for one node rise by one, and are above those of before where it was forgotten.
func TestNumbers(t *testing.T) {
	n := newNumbers(7)
	most := uint64(0)
	for want := uint64(8); want < 12; want++ {
		if got := n.next(nodeID(0)); got != want {
			t.Errorf("number %d, not %d", got, want)
		}
		most = want
	}
	for i := range 2 * wordsLimit {
		n.next(nodeID(1 + i))
	}
	if got := n.next(nodeID(0)); got <= most || len(n.last) > wordsLimit {
		t.Errorf("number %d after %d, of %d nodes", got, most, len(n.last))
	}
}

func TestWindow(t *testing.T) {
	var w window
	for _, c := range []struct {
		number uint64
		fresh  bool
	}{{5, true}, {5, false}, {4, true}, {4, false}, {100, true}, {36, false}, {37, true}, {37, false}, {99, true}, {100, false}, {5, false}, {1 << 60, true}, {100, false}} {
		if got := w.take(c.number); got != c.fresh {
			t.Errorf("number %d was taken: %v", c.number, got)
		}
	}
	full := words{}
	for i := range wordsLimit {
		full.take(nodeID(i), "", 1)
	}
	if full.take(nodeID(wordsLimit), "", 1) || full.take(nodeID(3), "", 1) || !full.take(nodeID(3), "", 2) {
		t.Error("who is not known was taken in, or who is known was not")
	}
	for range 2 * staysLimit {
		full.take(nodeID(5), newStay(), 1)
	}
	if got := len(full[nodeID(5)]); got != staysLimit {
		t.Errorf("%d stays of one node are known", got)
	}
}

// A node whose clock was ahead, and which began anew once it was set, is listened to as before;
// what it said before that is not taken again.
func TestFlowsOverAfterTheClockWasSetBack(t *testing.T) {
	d := newDelegate(Config{ID: nodeID(1), State: newMemory()}, newQueue(func() int { return 1 }), newLogbook(slog.New(slog.DiscardHandler)))
	say := func(n *numbers) word {
		return word{Over: mesh.Over{Node: nodeID(2)}, to: d.self, stay: *d.stay.Load(), own: n.own, number: n.next(d.self)}
	}
	ahead, right := newNumbers(1<<40), newNumbers(1<<30)
	before := say(ahead)
	if err := d.fresh(before); err != nil {
		t.Fatal(err)
	}
	if err := d.fresh(say(right)); err != nil {
		t.Error(err)
	}
	if err := d.fresh(before); mesh.ReasonOf(err) != Replayed {
		t.Errorf("a word of before was taken again: %v", err)
	}
}

// However many nodes have come and gone, and however often one began anew, the next is listened
// to, and no word twice.
func TestFlowsOverOfMany(t *testing.T) {
	for name, next := range map[string]func(i int) word{
		"nodes": func(i int) word { return word{Over: mesh.Over{Node: nodeID(10 + i)}} },
		"stays": func(int) word { return word{Over: mesh.Over{Node: nodeID(10)}, own: newStay()} },
	} {
		inBubble(t, 2, func(b *bubble) {
			t, nodes := b.T, b.nodes
			if !full(nodes, 10*time.Second) {
				t.Fatal("they did not find each other")
			}
			d := nodes[1].in
			was := *d.stay.Load()
			said := func(i int) word {
				say := next(i)
				say.to, say.stay, say.number = d.self, nodes[0].members.stay(d.self), 1
				return say
			}
			for i := 0; *d.stay.Load() == was; i++ {
				say := said(i)
				if err := d.fresh(say); err != nil {
					t.Fatalf("%s, word %d: %v", name, i, err)
				}
				if err := d.fresh(say); mesh.ReasonOf(err) != Replayed {
					t.Fatalf("%s, word %d again: %v", name, i, err)
				}
				if i > wordsLimit {
					t.Fatalf("%s: %d are remembered", name, i)
				}
			}
			time.Sleep(5 * time.Second)
			if err := d.fresh(said(0)); err != nil {
				t.Errorf("%s, after the other node was told: %v", name, err)
			}
			for i := range wordsLimit {
				d.fresh(said(1 + i))
			}
			if len(d.words) > wordsLimit || len(d.words[nodeID(10)]) > staysLimit {
				t.Errorf("%s: too many are remembered", name)
			}
		})
	}
}

// A word is its node's, as a record is its writer's.
func TestFlowsOverAreSigned(t *testing.T) {
	over := mesh.Over{Node: nodeID(1), Senders: senders(2)}
	for name, c := range map[string]struct {
		signer Signer
		good   bool
	}{
		"its own":   {seals{nodeID(1)}, true},
		"another's": {seals{nodeID(2)}, false},
		"nobody's":  {nil, false},
	} {
		msg, err := encodeOver(word{Over: over}, c.signer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeOver(msg, verifier{})
		if (err == nil) != c.good || c.good && !reflect.DeepEqual(got.Over, over) {
			t.Errorf("%s signature: %+v, %v", name, got, err)
		}
	}
}

func FuzzDecodeOver(f *testing.F) {
	f.Add([]byte{overVersion})
	f.Add(append([]byte{overVersion}, `{"k":"over","w":"a000000000000001","s":[{"x":"tcp","c":"192.0.2.1:5"},{"x":"udp","c":"[2001:db8::1]:6"}]}`...))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) == 0 {
			return
		}
		over, err := decodeOver(msg, nil)
		if err != nil {
			return
		}
		again, err := encodeOver(over, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeOver(again, nil); err != nil || !reflect.DeepEqual(got, over) {
			t.Fatalf("%+v became %+v, %v", over, got, err)
		}
	})
}
