package mesh

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// State is the merged set of records. The zero value is empty and ready. It is
// not safe for concurrent use; a Snapshot of it is.
type State struct {
	records map[Key]Record
	digest  [BucketCount]bucket // of records, kept up with them
	rev     uint64
	seen    uint64            // greatest Version.Time merged
	told    uint64            // greatest time that Now gave
	synced  map[NodeID]synced // what the node records say
	expiry  uint64            // by synced, as of the last Expire
	dropped []Key             // since the last Expire
}

// Merge takes one validated record and tells whether it changed the state. The
// result does not depend on the order in which records arrive, nor on how often:
// the greater version wins as a whole, its claim included, and of one version the
// greater bytes. A tombstone that every node has had is dropped; see Expire. The nouns and bytes of r must not be changed afterwards.
func (s *State) Merge(r Record) bool {
	s.seen = max(s.seen, r.Version.Time)
	k := r.Key()
	if have, ok := s.records[k]; ok && compareWrites(have, r) >= 0 {
		return false
	}
	switch _, ok := s.records[k]; {
	case !s.expired(r):
		if s.records == nil {
			s.records = map[Key]Record{}
		}
		s.records[k] = r
		s.digest[BucketOf(k)].put(r)
	case ok:
		s.drop(k)
	default:
		return false // whoever still has it drops it too
	}
	if r.Kind == KindNode || r.Kind == KindRemoval {
		s.noteNode(Key{KindNode, r.ID})
	}
	s.rev++
	return true
}

// Clear forgets every record. The revision goes on counting.
func (s *State) Clear() { *s = State{rev: s.rev + 1} }

// Seen is the greatest Version.Time merged, or time told to a peer: what Tick goes on from.
func (s *State) Seen() uint64 { return max(s.seen, s.told) }

// SeenBy is Seen without what was told beyond latest, by a clock that was set back since:
// nobody believed that, and it would make every later write one of the future.
func (s *State) SeenBy(latest uint64) uint64 {
	if s.told > latest {
		return s.seen
	}
	return s.Seen()
}

// Get returns the record of a key, a tombstone included.
func (s *State) Get(k Key) (Record, bool) {
	r, ok := s.records[k]
	return r, ok
}

// Count is how many records there are, tombstones included.
func (s *State) Count() int { return len(s.records) }

// removalOf is the removal of the node that a record is of, or an endpoint's node.
func (s *State) removalOf(r Record) (removal Record, removed bool) {
	var node NodeID
	switch {
	case r.Node != nil:
		node = r.Node.ID
	case r.Endpoint != nil:
		node = r.Endpoint.Node
	default:
		return Record{}, false
	}
	removal, removed = s.records[Key{KindRemoval, string(node)}]
	return removal, removed
}

// Records returns everything, tombstones included, in a fixed order.
func (s *State) Records() []Record {
	return slices.SortedFunc(maps.Values(s.records), compareRecords)
}

// bridged tells whether a network is a bridge.
func (s *State) bridged(id NetworkID) bool {
	n := s.records[Key{KindNetwork, string(id)}].Network
	return n != nil && n.Bridged()
}

func compareRecords(a, b Record) int { return a.Key().Compare(b.Key()) }

// Snapshot is an immutable, sorted view of a State. Its nouns are shared and must not be changed.
type Snapshot struct {
	Rev       uint64
	Nodes     []*Node    // with the slot and the blocks that they hold, not those they only claim
	Networks  []*Network // those that lost against an older one included
	Services  []*Service
	Endpoints []*Endpoint
	Tokens    []*Token // those that were not taken back, by when they end
	Removals  []*Removal
	Rotations []*Rotation
	Fronts    []Front // every published port that its service holds, the oldest claim first
	Conflicts []Conflict

	nodes     map[NodeID]*Node
	written   map[NodeID]*Node       // as in its record, where Nodes has less of it
	networks  map[NetworkID]*Network // without those that lost their VNI or subnet
	services  map[ServiceID]*Service
	byService map[ServiceID][]*Endpoint
	byNode    map[NodeID][]*Endpoint
	rests     map[rested]resting    // addresses that were left lately
	since     map[EndpointID]uint64 // the claims of endpoints
	virtual   [][]Attachment        // by the place in Services
	shadowed  map[Key][]Shadow      // see Shadowed
}

// Front is one published port and the service that holds it.
type Front struct {
	Service *Service
	Port    PublishedPort
}

// String names it as status does.
func (f Front) String() string { return "service " + f.Service.Name + " port " + f.Port.Front() }

// Snapshot returns the view of the present state.
func (s *State) Snapshot() *Snapshot {
	snap := &Snapshot{
		Rev:       s.rev,
		nodes:     map[NodeID]*Node{},
		written:   map[NodeID]*Node{},
		networks:  map[NetworkID]*Network{},
		services:  map[ServiceID]*Service{},
		byService: map[ServiceID][]*Endpoint{},
		byNode:    map[NodeID][]*Endpoint{},
		rests:     map[rested]resting{},
		since:     map[EndpointID]uint64{},
		shadowed:  map[Key][]Shadow{},
	}
	live := make([]Record, 0, len(s.records))
	for _, r := range s.records {
		switch removed, ok := s.removalOf(r); {
		case r.Deleted:
			snap.rest(r, r.Version.Time, s.seen, s.bridged)
		case ok:
			snap.rest(r, max(r.Version.Time, removed.Version.Time), s.seen, s.bridged)
		default:
			snap.rest(r, 0, s.seen, s.bridged)
			live = append(live, r)
		}
	}
	slices.SortFunc(live, compareRecords)
	for _, r := range live {
		snap.add(r)
	}
	slices.SortFunc(snap.Tokens, compareTokens)
	// Claims are settled oldest first, so the answer is the same on all nodes.
	slices.SortFunc(live, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Claim, b.Claim), compareRecords(a, b))
	})
	snap.settleNames(live)
	snap.settleNetworks(live)
	snap.settlePorts(live)
	snap.settleNodes(live)
	snap.settleVirtual(live)
	snap.settleWritings(live)
	return snap
}

func (snap *Snapshot) add(r Record) {
	switch r.Kind {
	case KindNode:
		snap.Nodes = append(snap.Nodes, r.Node)
		snap.nodes[r.Node.ID] = r.Node
	case KindNetwork:
		snap.Networks = append(snap.Networks, r.Network)
		snap.networks[r.Network.ID] = r.Network
	case KindService:
		snap.Services = append(snap.Services, r.Service)
		snap.services[r.Service.ID] = r.Service
	case KindEndpoint:
		snap.Endpoints = append(snap.Endpoints, r.Endpoint)
		snap.byService[r.Endpoint.Service] = append(snap.byService[r.Endpoint.Service], r.Endpoint)
		snap.byNode[r.Endpoint.Node] = append(snap.byNode[r.Endpoint.Node], r.Endpoint)
		snap.since[r.Endpoint.ID] = r.Claim
	case KindToken:
		snap.Tokens = append(snap.Tokens, r.Token)
	case KindRemoval:
		snap.Removals = append(snap.Removals, r.Removal)
	case KindRotation:
		snap.Rotations = append(snap.Rotations, r.Rotation)
	case KindKeyring: // one is asked for by its generation
	}
}

// name is what a noun claims as its own; node names are told apart by ID alone.
func (r Record) name() string {
	switch {
	case r.Network != nil:
		return r.Network.Name
	case r.Service != nil:
		return r.Service.Name
	case r.Endpoint != nil:
		return r.Endpoint.Name
	default:
		return ""
	}
}

func (snap *Snapshot) settleNames(byAge []Record) {
	holder := map[Key]string{} // Key.ID is the name here, as a name server reads it: in one case
	for _, r := range byAge {
		name := r.name()
		if name == "" {
			continue
		}
		k := Key{r.Kind, strings.ToLower(name)}
		if winner, taken := holder[k]; taken {
			snap.Conflicts = append(snap.Conflicts, Conflict{Kind: r.Kind, ID: r.ID, Claim: `name "` + name + `"`, Winner: winner, Reason: NameTaken})
			continue
		}
		holder[k] = r.ID
	}
}

// settlePorts leaves a port to the oldest claim: one that all nodes answer on to one service, and
// one that nodes answer on for their own endpoints to all that publish it so; see Hosted.
func (snap *Snapshot) settlePorts(byAge []Record) {
	var meshed, hosted heldPorts // by number in Fronts
	for _, r := range byAge {
		if r.Kind != KindService {
			continue
		}
		for _, p := range r.Service.Publish {
			winner, taken := meshed.overlapped(p)
			mine := &hosted
			if p.Mode != Hosted {
				mine = &meshed
				if i, also := hosted.overlapped(p); also && (!taken || i < winner) {
					winner, taken = i, true
				}
			}
			if taken {
				snap.Conflicts = append(snap.Conflicts, Conflict{Kind: r.Kind, ID: r.ID, Claim: "port " + p.Front(), Winner: string(snap.Fronts[winner].Service.ID), Reason: PortTaken})
				continue
			}
			mine.add(p, len(snap.Fronts))
			snap.Fronts = append(snap.Fronts, Front{r.Service, p})
		}
	}
}

// Node looks a node up by ID; nil where there is none.
func (snap *Snapshot) Node(id NodeID) *Node { return snap.nodes[id] }

// Network looks a network up by ID. It finds none that lost its VNI or a subnet to an
// older network: such a one is not built.
func (snap *Snapshot) Network(id NetworkID) *Network { return snap.networks[id] }

// Service looks a service up by ID.
func (snap *Snapshot) Service(id ServiceID) *Service { return snap.services[id] }

// EndpointsOf returns a service's endpoints on all nodes, sorted by ID.
func (snap *Snapshot) EndpointsOf(id ServiceID) []*Endpoint { return snap.byService[id] }

// Local returns the endpoints of one node, sorted by ID, for the caller to keep.
func (snap *Snapshot) Local(id NodeID) []*Endpoint { return slices.Clone(snap.byNode[id]) }

// NetworkNamed finds the network that has the ID, or else holds the name, in
// whatever case; nil where there is none. ServiceNamed and EndpointNamed do the same.
func (snap *Snapshot) NetworkNamed(name string) *Network {
	return find(snap, snap.Networks, KindNetwork, func(n *Network) (string, string) { return string(n.ID), n.Name }, name)
}

// ServiceNamed finds a service by name or ID.
func (snap *Snapshot) ServiceNamed(name string) *Service {
	return find(snap, snap.Services, KindService, func(s *Service) (string, string) { return string(s.ID), s.Name }, name)
}

// EndpointNamed finds an endpoint by name or ID.
func (snap *Snapshot) EndpointNamed(name string) *Endpoint {
	return find(snap, snap.Endpoints, KindEndpoint, func(e *Endpoint) (string, string) { return string(e.ID), e.Name }, name)
}

func find[T any](snap *Snapshot, all []*T, kind Kind, label func(*T) (id, name string), want string) *T {
	var named *T
	for _, x := range all {
		id, name := label(x)
		if id == want { // before a name that looks like it
			return x
		}
		if strings.EqualFold(name, want) && !snap.lost(kind, id, name) {
			named = x
		}
	}
	return named
}

func (snap *Snapshot) lost(kind Kind, id, name string) bool {
	for _, c := range snap.Conflicts {
		if c.Kind == kind && c.ID == id && c.Reason == NameTaken && c.Claim == `name "`+name+`"` {
			return true
		}
	}
	return false
}
