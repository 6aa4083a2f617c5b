package gossip

import (
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// members is our own list of who is alive. memberlist tells of changes while it
// holds its lock and hands out nodes that it goes on changing, so they are copied
// here, and State hears of them from a goroutine of ours. Safe for concurrent use.
type members struct {
	self mesh.NodeID

	mu    sync.Mutex
	alive map[mesh.NodeID]*memberlist.Node // without self; never changed once in
	told  map[mesh.NodeID]bool             // what State knows to be alive
	news  chan struct{}
}

func newMembers(self mesh.NodeID) *members {
	return &members{
		self: self, alive: map[mesh.NodeID]*memberlist.Node{},
		told: map[mesh.NodeID]bool{}, news: make(chan struct{}, 1),
	}
}

// NotifyJoin, NotifyUpdate and NotifyLeave are memberlist.EventDelegate.
func (m *members) NotifyJoin(n *memberlist.Node) {
	c := *n
	c.Addr, c.Meta = slices.Clone(n.Addr), nil
	m.change(func(id mesh.NodeID) { m.alive[id] = &c }, n)
}

// NotifyUpdate keeps the newest form of a node.
func (m *members) NotifyUpdate(n *memberlist.Node) { m.NotifyJoin(n) }

// NotifyLeave forgets a node that failed or left.
func (m *members) NotifyLeave(n *memberlist.Node) {
	m.change(func(id mesh.NodeID) { delete(m.alive, id) }, n)
}

// NotifyAlive refuses a member that is no node of ours: its name goes into logs
// and look-ups from here on. It is memberlist.AliveDelegate.
func (m *members) NotifyAlive(n *memberlist.Node) error { return mesh.NodeID(n.Name).Validate() }

func (m *members) change(f func(mesh.NodeID), n *memberlist.Node) {
	id := mesh.NodeID(n.Name)
	if id == m.self {
		return
	}
	m.mu.Lock()
	f(id)
	m.mu.Unlock()
	signal(m.news)
}

// tell brings State up to date. A node that went and came back in between is no news.
func (m *members) tell(state State) {
	m.mu.Lock()
	changed := map[mesh.NodeID]bool{}
	for id := range m.told {
		if m.alive[id] == nil {
			changed[id] = false
		}
	}
	for id := range m.alive {
		if !m.told[id] {
			changed[id] = true
		}
	}
	for id, alive := range changed {
		if m.told[id] = alive; !alive {
			delete(m.told, id)
		}
	}
	m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		state.MemberChanged(id, changed[id])
	}
}

// ids are the living, self included, sorted.
func (m *members) ids() []mesh.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := append(slices.Collect(maps.Keys(m.alive)), m.self)
	slices.Sort(ids)
	return ids
}

// others are the living without self.
func (m *members) others() []*memberlist.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.alive))
}

// count is how many live, self included.
func (m *members) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.alive) + 1
}

// at tells whether a living member has the address.
func (m *members) at(a netip.AddrPort) bool {
	return slices.ContainsFunc(m.others(), func(n *memberlist.Node) bool {
		ip, ok := netip.AddrFromSlice(n.Addr)
		return ok && netip.AddrPortFrom(ip.Unmap(), n.Port) == a
	})
}

// signal wakes the receiver once, however often it is called before.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
