package sim

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/mesh"
)

// digests remembers what planes hold by the revision of it.
type digests map[*agent.Plane]digested

type digested struct {
	rev uint64
	sum [sha256.Size]byte
}

// of is the hash of all records of a plane, byte for byte.
func (d digests) of(p *agent.Plane) [sha256.Size]byte {
	rev := p.Snapshot().Rev
	if have, ok := d[p]; ok && have.rev == rev && rev != 0 {
		return have.sum
	}
	h := sha256.New()
	for _, r := range p.Records() {
		h.Write(line(r))
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	d[p] = digested{rev, sum}
	return sum
}

func line(r mesh.Record) []byte {
	text, err := json.Marshal(r)
	if err != nil {
		return []byte(err.Error())
	}
	// A list without members is sent as none.
	return append(bytes.ReplaceAll(text, []byte("[]"), []byte("null")), '\n')
}

// Agreed tells whether all nodes run, are members, and hold the same bytes; otherwise why not.
func (w *World) Agreed(d digests) error {
	var first *Node
	for _, n := range w.Nodes {
		p := n.plane.Load()
		if p == nil || p.Alive() == nil {
			return fmt.Errorf("%s is no member", n.Name)
		}
		if first == nil {
			first = n
		}
		if d.of(p) != d.of(first.plane.Load()) {
			return fmt.Errorf("%s and %s differ: %s", first.Name, n.Name, difference(first.plane.Load(), p))
		}
	}
	return nil
}

// difference names the first record that two planes do not have alike.
func difference(a, b *agent.Plane) string {
	theirs := map[mesh.Key]mesh.Record{}
	for _, r := range b.Records() {
		theirs[r.Key()] = r
	}
	for _, r := range a.Records() {
		other, ok := theirs[r.Key()]
		delete(theirs, r.Key())
		if !ok {
			return fmt.Sprintf("%s %s is only at the first", r.Kind, r.ID)
		}
		if one, two := line(r), line(other); string(one) != string(two) {
			return fmt.Sprintf("%.600q against %.600q", one, two)
		}
	}
	for k := range theirs {
		return fmt.Sprintf("%s %s is only at the second", k.Kind, k.ID)
	}
	return "not any more"
}

// Within waits until f gives no error, at most so long, and gives how long it took.
func Within(limit, step time.Duration, f func() error) (time.Duration, error) {
	began := time.Now()
	for {
		err := f()
		if took := time.Since(began); err == nil || took >= limit {
			return took, err
		}
		time.Sleep(step)
	}
}

// Seen tells whether every node finds every other alive, and nobody else.
func (w *World) Seen() error {
	var all []mesh.NodeID
	for _, n := range w.Nodes {
		p := n.plane.Load()
		if p == nil {
			return fmt.Errorf("%s does not run", n.Name)
		}
		all = append(all, p.ID())
	}
	slices.Sort(all)
	for _, n := range w.Nodes {
		if got := n.plane.Load().Alive(); !slices.Equal(got, all) {
			return fmt.Errorf("%s finds %d of %d nodes alive", n.Name, len(got), len(all))
		}
	}
	return nil
}

// Sound tells whether the state that all agree on has one owner of each thing, and whether
// nobody has anything left to settle.
func (w *World) Sound() error {
	var errs []error
	snap := w.Nodes[0].plane.Load().Snapshot()
	for id, n := range w.live() {
		// As of a time when all that was left rests still: a rest that ends wakes nobody here.
		records, refused := mesh.Settle(snap, id, 0)
		if len(records) > 0 {
			errs = append(errs, fmt.Errorf("%s has %s %s to settle", n.Name, records[0].Kind, records[0].ID))
		}
		for e, err := range refused {
			if askedFor(err) {
				continue
			}
			errs = append(errs, fmt.Errorf("%s has no room for endpoint %s: %w", n.Name, e, err))
		}
	}
	return errors.Join(append(errs, oneOwner(snap), inBlocks(snap, w.live()), w.book.kept(snap))...)
}

// askedFor tells whether an endpoint is without an address because it wants one that another
// has: somebody asked for it on two sides of a split.
func askedFor(err error) bool {
	switch mesh.ReasonOf(err) {
	case mesh.BlockTaken, mesh.AddressTaken, mesh.AddressRests, mesh.BadAddress:
		return true
	default:
		return false
	}
}

// owners finds things that two nouns have.
type owners struct {
	have map[string]string
	errs []error
}

func (o *owners) claim(thing, owner string) {
	if other, taken := o.have[thing]; taken && other != owner {
		o.errs = append(o.errs, fmt.Errorf("%s is of %s and of %s", thing, other, owner))
	}
	o.have[thing] = owner
}

func oneOwner(snap *mesh.Snapshot) error {
	o := owners{have: map[string]string{}}
	for _, n := range snap.Nodes {
		o.claim(fmt.Sprint("slot ", cmp.Or(n.Slot, 0)), string(n.ID))
		for _, b := range n.Blocks {
			o.claim(fmt.Sprint("block ", b.Network, b.V4), string(n.ID))
			o.claim(fmt.Sprint("block ", b.Network, b.V6), string(n.ID))
		}
	}
	var subnets []netip.Prefix
	for _, n := range snap.Networks {
		if snap.Network(n.ID) == nil {
			continue // it lost, and is not built
		}
		o.claim(fmt.Sprint("VNI ", n.VNI), string(n.ID))
		for _, p := range snap.Network(n.ID).Subnets() {
			if slices.ContainsFunc(subnets, p.Overlaps) {
				o.errs = append(o.errs, fmt.Errorf("subnet %s of network %s overlaps another", p, n.Name))
			}
			subnets = append(subnets, p)
		}
	}
	for _, e := range snap.Endpoints {
		for _, a := range e.Attached {
			o.claim(fmt.Sprint("address ", a.Network, a.V4), string(e.ID))
			o.claim(fmt.Sprint("address ", a.Network, a.V6), string(e.ID))
		}
	}
	for i, f := range snap.Fronts {
		for _, other := range snap.Fronts[:i] {
			if f.Port.Overlaps(other.Port) {
				o.errs = append(o.errs, fmt.Errorf("port %s is of %s and of %s", f.Port.Front(), f.Service.ID, other.Service.ID))
			}
		}
	}
	return errors.Join(append(o.errs, names(snap)...)...)
}

// names finds names that nobody holds, or of which a loser is not told.
func names(snap *mesh.Snapshot) (errs []error) {
	lost := map[mesh.Key]bool{}
	for _, c := range snap.Conflicts {
		if c.Reason == mesh.NameTaken {
			lost[mesh.Key{Kind: c.Kind, ID: c.ID}] = true
		}
	}
	holders := owners{have: map[string]string{}}
	claim := func(kind mesh.Kind, id, name string) {
		if !lost[mesh.Key{Kind: kind, ID: id}] {
			holders.claim(fmt.Sprintf("%s name %s", kind, name), id)
		}
	}
	for _, n := range snap.Networks {
		claim(mesh.KindNetwork, string(n.ID), n.Name)
	}
	for _, s := range snap.Services {
		claim(mesh.KindService, string(s.ID), s.Name)
	}
	for _, e := range snap.Endpoints {
		claim(mesh.KindEndpoint, string(e.ID), e.Name)
	}
	return holders.errs
}

// inBlocks finds endpoints with an address that their node may not give. A node that is none
// any more, since its disk was lost, settles nothing, and nobody sends to what it leaves behind:
// a block that an older claim took, or an endpoint that who forgot it had not heard of.
func inBlocks(snap *mesh.Snapshot, live map[mesh.NodeID]*Node) error {
	var errs []error
	for _, e := range snap.Endpoints {
		node := snap.Node(e.Node)
		if live[e.Node] == nil {
			continue
		}
		if node == nil {
			errs = append(errs, fmt.Errorf("endpoint %s is on node %s, which has no record", e.Name, e.Node))
			continue
		}
		for _, a := range e.Attached {
			has := func(b mesh.Block) bool { return b.Network == a.Network && b.V4.Contains(a.V4) && b.V6.Contains(a.V6) }
			if !slices.ContainsFunc(node.Blocks, has) {
				errs = append(errs, fmt.Errorf("endpoint %s has %s, and node %s no block with it", e.Name, a.V4, node.Name))
			}
		}
	}
	return errors.Join(errs...)
}
