package gossip

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// bubble is a cluster in virtual time.
type bubble struct {
	*testing.T
	network *memnet
	nodes   []*node
}

// inBubble runs a cluster of size nodes that know each other from records, and stops it.
func inBubble(t *testing.T, size int, f func(*bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := newMemnet()
		var all []netip.AddrPort
		for i := range size {
			all = append(all, memAddr(i+1))
		}
		var nodes []*node
		for i := range size {
			nodes = append(nodes, startIn(t, network, i+1, nil, all...))
		}
		defer func() {
			for _, n := range nodes {
				n.Close()
			}
			time.Sleep(3 * time.Minute) // memberlist's own goroutines end
		}()
		f(&bubble{t, network, nodes})
	})
}

func full(nodes []*node, limit time.Duration) bool {
	for began := time.Now(); time.Since(began) <= limit; time.Sleep(50 * time.Millisecond) {
		all := true
		for _, n := range nodes {
			all = all && len(n.Members()) == len(nodes)
		}
		if all {
			return true
		}
	}
	return false
}

// Without one datagram everybody takes everybody else for dead, and still all records
// reach all.
func TestAgreementWithoutGossip(t *testing.T) {
	inBubble(t, 12, func(b *bubble) {
		t, network, nodes := b.T, b.network, b.nodes
		network.set(func() { network.lose = func() bool { return true } })
		time.Sleep(10 * time.Second)
		for i, n := range nodes {
			for j := range 20 {
				n.write(service(100*i + j))
			}
		}
		took, err := agree(nodes, 8*time.Second)
		if err != nil || nodes[0].Count() != 12*20 {
			t.Fatalf("%d records, %v", nodes[0].Count(), err)
		}
		t.Logf("12 nodes without datagrams agreed after %v", took)
	})
}

func TestSplitHeals(t *testing.T) {
	inBubble(t, 16, func(b *bubble) {
		t, network, nodes := b.T, b.network, b.nodes
		if !full(nodes, 20*time.Second) {
			t.Fatal("they did not find each other")
		}
		half := func(a netip.Addr) bool { return a.Compare(memAddr(8).Addr()) <= 0 }
		network.set(func() { network.cut = func(from, to netip.Addr) bool { return half(from) != half(to) } })
		time.Sleep(2 * time.Minute)
		for i, n := range nodes {
			if len(n.Members()) != 8 {
				t.Errorf("node %d has %d members in its half", i+1, len(n.Members()))
			}
			for j := range 10 {
				n.write(service(100*i + j))
			}
		}
		network.set(func() { network.cut = nil })
		took, err := agree(nodes, 6*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !full(nodes, 6*time.Second-took) {
			t.Error("they are not members again within 6 s")
		}
		t.Logf("16 nodes agreed %v after a split of 2 minutes", took)
	})
}

// A change is everywhere at once; that nothing moves any more is quiet.
func TestQuietWhenEqual(t *testing.T) {
	inBubble(t, 5, func(b *bubble) {
		t, nodes := b.T, b.nodes
		if !full(nodes, 10*time.Second) {
			t.Fatal("they did not find each other")
		}
		nodes[0].write(service(1))
		time.Sleep(100 * time.Millisecond)
		if !same(nodes) {
			t.Error("a change is not everywhere after 100 ms")
		}
		time.Sleep(10 * time.Second)
		var merges int
		for _, n := range nodes {
			merges -= n.mergeCount()
		}
		time.Sleep(time.Minute)
		for _, n := range nodes {
			merges += n.mergeCount()
		}
		if merges != 0 {
			t.Errorf("%d messages of records in a minute without a change", merges)
		}
	})
}

func (m *memory) mergeCount() int { return locked(m, func() int { return m.merges }) }

// What one node refuses is tried again, once in a while.
func TestRefusedRecordsDoNotSpin(t *testing.T) {
	inBubble(t, 2, func(b *bubble) {
		t, nodes := b.T, b.nodes
		nodes[1].refuse = func(r mesh.Record) bool { return r.ID == service(1).ID }
		nodes[0].write(service(1))
		nodes[0].write(service(2))
		time.Sleep(10 * time.Second)
		if _, ok := nodes[1].get(service(2).Key()); !ok {
			t.Error("the other record did not arrive")
		}
		for _, c := range []struct {
			minutes, most int
		}{{1, 10}, {2, 6}, {2, 6}} { // each side remembers for itself, and what comes first in a bucket comes twice
			was := nodes[1].mergeCount()
			time.Sleep(time.Duration(c.minutes) * time.Minute)
			if more := nodes[1].mergeCount() - was; more == 0 || more > c.most {
				t.Errorf("it was sent %d times in %d minutes", more, c.minutes)
			}
		}
	})
}

func TestJoinWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemnet()
		seed := startIn(t, network, 1, nil)
		for i := range 500 {
			seed.write(service(i))
		}
		results := make(chan error)
		nodes := []*node{seed}
		for i := range 60 {
			n := startIn(t, network, i+2, nil)
			nodes = append(nodes, n)
			go func() {
				_, err := n.Join(t.Context(), seed.addr)
				if err == nil && n.Count() != 500 {
					err = mesh.Refuse(mesh.BadRecord, "", "%d records after Join", n.Count())
				}
				results <- err
			}()
		}
		for range 60 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		for _, n := range nodes {
			n.Close()
		}
		time.Sleep(3 * time.Minute)
	})
}
