package gossip

import (
	"bytes"
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
	self    mesh.NodeID
	resized func(members int) // hears how many are alive, this one included, under memberlist's lock

	mu      sync.Mutex
	alive   map[mesh.NodeID]*memberlist.Node // nodes without self; never changed once in
	foreign map[string]bool                  // living members that are no node of sluice
	told    map[mesh.NodeID]bool             // what State knows to be alive
	nodes   map[mesh.NodeID]bool             // of the records; replaced, never changed
	news    chan struct{}
}

func newMembers(self mesh.NodeID) *members {
	return &members{
		self: self, resized: func(int) {}, alive: map[mesh.NodeID]*memberlist.Node{}, foreign: map[string]bool{},
		told: map[mesh.NodeID]bool{}, news: make(chan struct{}, 1),
	}
}

// memberMark begins the metadata of a node of sluice. It is a role to serf, which shows it.
const memberMark = "sluice/1"

// Limits of what memberlist may tell of. Who has the cluster's key can make members up, and
// each is held in memory and probed.
const (
	memberLimit  = 4096 // nodes
	foreignLimit = 64   // members that are no node of sluice
	nameLimit    = 128  // bytes of a member's name
)

// NotifyJoin, NotifyUpdate and NotifyLeave are memberlist.EventDelegate.
func (m *members) NotifyJoin(n *memberlist.Node) {
	c := *n
	c.Addr, c.Meta = slices.Clone(n.Addr), slices.Clone(n.Meta)
	ours := isNode(n)
	m.change(n, func(id mesh.NodeID) {
		if ours {
			m.alive[id] = &c
			delete(m.foreign, n.Name)
			return
		}
		delete(m.alive, id)
		m.foreign[n.Name] = true
	})
}

// NotifyUpdate keeps the newest form of a member.
func (m *members) NotifyUpdate(n *memberlist.Node) { m.NotifyJoin(n) }

// NotifyLeave forgets a member that failed or left.
func (m *members) NotifyLeave(n *memberlist.Node) {
	m.change(n, func(id mesh.NodeID) {
		delete(m.alive, id)
		delete(m.foreign, n.Name)
	})
}

// isNode tells a node of sluice from what else gossips with the same key. State hears of
// nodes alone, and they alone get records.
func isNode(n *memberlist.Node) bool {
	return mesh.NodeID(n.Name).Validate() == nil && bytes.HasPrefix(n.Meta, []byte("sluice/"))
}

// expect says which nodes are let in even where there are too many members.
func (m *members) expect(nodes []mesh.NodeID) {
	known := make(map[mesh.NodeID]bool, len(nodes))
	for _, id := range nodes {
		known[id] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nodes = known
}

// NotifyAlive refuses a member with a name that is no name, since it goes into logs and
// look-ups from here on, and those that are too many, unless the records know the node. It is
// memberlist.AliveDelegate.
func (m *members) NotifyAlive(n *memberlist.Node) error {
	if !isName(n.Name) {
		return mesh.Refuse(mesh.BadRecord, "remove the member", "a member is named %.40q", n.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	id := mesh.NodeID(n.Name)
	if id == m.self || m.alive[id] != nil || m.foreign[n.Name] || m.nodes[id] {
		return nil
	}
	if have, limit := m.room(n); have >= limit {
		return mesh.Refuse(TooManyMembers, "look at sluice status for who they are; rotate the gossip key where they are nobody's", "there are %d members of its kind already", have)
	}
	return nil
}

func (m *members) room(n *memberlist.Node) (have, limit int) {
	if isNode(n) {
		return len(m.alive), memberLimit
	}
	return len(m.foreign), foreignLimit
}

// isName holds for serf's names too.
func isName(s string) bool {
	if s == "" || len(s) > nameLimit {
		return false
	}
	for _, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func (m *members) change(n *memberlist.Node, f func(mesh.NodeID)) {
	id := mesh.NodeID(n.Name)
	if id == m.self {
		return
	}
	m.mu.Lock()
	f(id)
	alive := 1 + len(m.alive) + len(m.foreign)
	m.mu.Unlock()
	m.resized(alive)
	signal(m.news)
}

// tell brings State up to date. A node that went and came back in between is no news.
func (m *members) tell(state State) {
	came, went := m.untold()
	for _, id := range went {
		state.MemberSilent(id)
	}
	for _, id := range came {
		state.MemberAlive(id)
	}
}

// untold returns what State has not heard, each sorted, and counts it as told.
func (m *members) untold() (came, went []mesh.NodeID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.told {
		if m.alive[id] == nil {
			went = append(went, id)
			delete(m.told, id)
		}
	}
	for id := range m.alive {
		if !m.told[id] {
			came = append(came, id)
			m.told[id] = true
		}
	}
	slices.Sort(came)
	slices.Sort(went)
	return came, went
}

// ids are the living, self included, sorted.
func (m *members) ids() []mesh.NodeID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := append(slices.Collect(maps.Keys(m.alive)), m.self)
	slices.Sort(ids)
	return ids
}

// get is a living node other than self; nil where there is none of the ID.
func (m *members) get(id mesh.NodeID) *memberlist.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive[id]
}

// stay is what a living node told of itself.
func (m *members) stay(id mesh.NodeID) stay {
	n := m.get(id)
	if n == nil {
		return ""
	}
	return stayOf(n.Meta)
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

// addrs are where the living are, without self.
func (m *members) addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, n := range m.others() {
		if ip, ok := netip.AddrFromSlice(n.Addr); ok {
			addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), n.Port))
		}
	}
	return addrs
}

// at tells whether a living member has the address.
func (m *members) at(a netip.AddrPort) bool { return len(m.missing([]netip.AddrPort{a})) == 0 }

// missing are those of the addresses that no living member has.
func (m *members) missing(of []netip.AddrPort) []netip.AddrPort {
	living := map[netip.AddrPort]bool{}
	for _, a := range m.addrs() {
		living[a] = true
	}
	return slices.DeleteFunc(slices.Clone(of), func(a netip.AddrPort) bool { return living[a] })
}

// signal wakes the receiver once, however often it is called before.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
