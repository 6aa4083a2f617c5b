package sim

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-mesh/sluice/mesh"
)

// book is what the nodes have promised: a write that was acknowledged stays, unless somebody
// tried to undo it, or the only disk that surely has it was lost. Safe for concurrent use.
type book struct {
	mu     *sync.Mutex
	made   map[mesh.Key]promise
	ended  map[mesh.Key]promise
	asked  map[mesh.Key]bool // somebody tried to end it
	again  map[mesh.Key]bool // somebody tried to write it again, which may overtake its end
	member map[mesh.Key]mesh.Key
	lost   []mesh.NodeID // nodes whose disk is gone
}

// promise is who acknowledged, on which of its disks.
type promise struct {
	node *Node
	disk int
}

func (p promise) holds() bool { return p.node.disks == p.disk }

func newBook() book {
	return book{
		mu: new(sync.Mutex), made: map[mesh.Key]promise{}, ended: map[mesh.Key]promise{},
		asked: map[mesh.Key]bool{}, again: map[mesh.Key]bool{}, member: map[mesh.Key]mesh.Key{},
	}
}

func serviceKey(id mesh.ServiceID) mesh.Key { return mesh.Key{Kind: mesh.KindService, ID: string(id)} }

func endpointKey(id mesh.EndpointID) mesh.Key {
	return mesh.Key{Kind: mesh.KindEndpoint, ID: string(id)}
}

// create notes that a node made something that is part of of, if that is a key.
func (b *book) create(n *Node, k, of mesh.Key, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.made[k], b.member[k] = promise{n, n.disks}, of
	}
}

// end notes that a node tried to end something.
func (b *book) end(n *Node, k mesh.Key, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked[k] = true
	if err == nil {
		b.ended[k] = promise{n, n.disks}
	}
}

// rewrite notes that somebody tried to change something.
func (b *book) rewrite(k mesh.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.again[k] = true
}

// lose notes that a node is no more.
func (b *book) lose(id mesh.NodeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = append(b.lost, id)
}

// takeLost is a node that is to be forgotten, or "".
func (b *book) takeLost() mesh.NodeID {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lost) == 0 {
		return ""
	}
	id := b.lost[0]
	b.lost = b.lost[1:]
	return id
}

// kept gives the promises that a state breaks.
func (b *book) kept(snap *mesh.Snapshot) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	live := map[mesh.Key]bool{}
	for _, s := range snap.Services {
		live[serviceKey(s.ID)] = true
	}
	for _, e := range snap.Endpoints {
		live[endpointKey(e.ID)] = true
	}
	var broken []string
	for k, p := range b.made {
		if p.holds() && !live[k] && !b.asked[k] && !b.asked[b.member[k]] {
			broken = append(broken, fmt.Sprintf("%s %s, made on %s, is lost", k.Kind, k.ID, p.node.Name))
		}
	}
	for k, p := range b.ended {
		if p.holds() && live[k] && !b.again[k] {
			broken = append(broken, fmt.Sprintf("%s %s, ended on %s, lives", k.Kind, k.ID, p.node.Name))
		}
	}
	slices.Sort(broken)
	var errs []error
	for _, text := range broken {
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}
