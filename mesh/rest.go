package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Rest is how long an address that an endpoint had is given to no other, so that what still
// speaks to it (an open connection, a resolver's cache) does not meet a stranger. Who frees it
// says since when in the record that does so: a tombstone, or the endpoint's own. So nobody
// counts, a restart forgets nothing, and whoever gets the addresses of a node that is gone knows
// of them too.
const Rest = time.Minute

const restMicros = uint64(Rest / time.Microsecond)

// Freed is a pair of addresses that an endpoint had on a network.
type Freed struct {
	Network NetworkID
	V4, V6  netip.Addr
	Since   uint64 // when it was left; 0 in a tombstone: with its version
}

// leftLimit is how many an endpoint's record names at most: each of its networks, some twice.
const leftLimit = 2 * (networkLimit + 1)

// at is an address of a network.
type at struct {
	network NetworkID
	addr    netip.Addr
}

// rested is an address that rests: of a bridge, which each node has for itself, on one node.
type rested struct {
	at   at
	node NodeID
}

func (a Attachment) both() [2]at { return [2]at{{a.Network, a.V4}, {a.Network, a.V6}} }

// resting is until when an address rests, and for what service it does not.
type resting struct {
	until   uint64
	service ServiceID
}

// Tombstone is the record that deletes r, and says what addresses that frees.
func Tombstone(r Record) Record {
	gone := Record{Kind: r.Kind, ID: r.ID, Deleted: true}
	if e := r.Endpoint; e != nil {
		gone.Freed, gone.FreedBy = e.freed(), e.Service
	}
	return gone
}

// freed is all that the endpoint has or had. What rests already may rest longer for it.
func (e *Endpoint) freed() []Freed {
	var list []Freed
	for _, a := range e.Attached {
		list = append(list, Freed{a.Network, a.V4, a.V6, 0})
	}
	for _, f := range e.Left {
		f.Since = 0
		list = append(list, f)
	}
	slices.SortFunc(list, compareFreed)
	list = slices.Compact(list)
	return list[:min(len(list), leftLimit)]
}

func compareFreed(a, b Freed) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), a.V4.Compare(b.V4), a.V6.Compare(b.V6), cmp.Compare(a.Since, b.Since))
}

// leave notes that the endpoint has an address no longer, and forgets what rests no more.
func (e *Endpoint) leave(a Attachment, now uint64) {
	e.Left = slices.DeleteFunc(e.Left, func(f Freed) bool { return f.Since+restMicros <= now })
	e.Left = append(e.Left, Freed{a.Network, a.V4, a.V6, now})
	e.Left = e.Left[max(0, len(e.Left)-leftLimit):]
}

// valid tells whether a node may say that an endpoint had this.
func (f Freed) valid() bool {
	return validID(string(f.Network)) == nil && f.V4.Is4() && f.V6.Is6() && validUnicast(f.V4) && validUnicast(f.V6)
}

// validateFreed refuses a list of addresses that no node makes.
func (r Record) validateFreed() error {
	wrong := func(f Freed) bool { return !f.valid() || f.Since != 0 }
	none := len(r.Freed) == 0 && r.FreedBy == ""
	if !none && (!r.Deleted || r.Kind != KindEndpoint || validID(string(r.FreedBy)) != nil) || len(r.Freed) > leftLimit || slices.ContainsFunc(r.Freed, wrong) {
		return Refuse(BadRecord, "update the node that wrote it", "record %.20q %s frees %d addresses that it cannot have had", string(r.Kind), r.ID, len(r.Freed))
	}
	return nil
}

// leftBy tells whether the endpoint left its addresses at some time until the given one.
func (e *Endpoint) leftBy(time uint64) bool {
	return !slices.ContainsFunc(e.Left, func(f Freed) bool { return !f.valid() || f.Since == 0 || f.Since > time })
}

// rest notes what a record frees. What rests no more when the newest record is written is
// left out: the present is later still, and tombstones are many.
func (snap *Snapshot) rest(r Record, since, seen uint64, bridged func(NetworkID) bool) {
	freed, by, node := r.Freed, r.FreedBy, r.Version.Writer
	if r.Endpoint != nil {
		node = r.Endpoint.Node
		freed, by = r.Endpoint.Left, r.Endpoint.Service
		if since != 0 { // of a node that was removed: nobody wrote a tombstone
			freed = r.Endpoint.freed()
		}
	}
	for _, f := range freed {
		until := cmp.Or(f.Since, since) + restMicros
		if until <= seen {
			continue
		}
		for _, one := range (Attachment{f.Network, f.V4, f.V6}).both() {
			a := rested{at: one}
			if bridged(f.Network) {
				a.node = node
			}
			if have := snap.rests[a]; have.until < until || have.until == until && have.service < by {
				snap.rests[a] = resting{until, by}
			}
		}
	}
}

// restsUntil is until when an address may not be given to a node's endpoint of a service that it
// was not one of; 0: it may.
func (snap *Snapshot) restsUntil(a at, node NodeID, service ServiceID, now uint64) uint64 {
	key := rested{at: a}
	if n := snap.networks[a.network]; n != nil && n.Bridged() {
		key.node = node
	}
	r := snap.rests[key]
	if r.until <= now || service != "" && r.service == service {
		return 0
	}
	return r.until
}
