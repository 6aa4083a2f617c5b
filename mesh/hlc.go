package mesh

import (
	"cmp"
	"slices"
	"time"
)

// The time of a write is that of a hybrid logical clock: the wall clock's microseconds, or one
// more than the latest time that the writer had seen, whichever is later. So a write is after
// everything that its writer knew, however wrong the writer's clock is, and mostly close to
// the time of day.

// Version orders the writes of one record: the later Time wins, and at the same
// Time the greater Writer. Time is a hybrid logical clock (see Tick).
type Version struct {
	Time   uint64
	Writer NodeID
}

// Compare orders versions.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Time, w.Time), cmp.Compare(v.Writer, w.Writer))
}

// Tick returns the time of a new write: later than everything seen, and the wall
// clock's microseconds where that is later still. A wrong wall clock therefore
// never makes a write lose against what its writer had seen.
func Tick(seen, wallMicros uint64) uint64 { return max(seen+1, wallMicros) }

// timeLimit keeps Tick from overflowing, whatever another node writes: 1<<62
// microseconds are 146,000 years.
const timeLimit = 1 << 62

// Micros is a wall clock's time as Tick takes it.
func Micros(wall time.Time) uint64 { return uint64(max(wall.UnixMicro(), 1)) }

// DriftLimit is how far ahead of a node's own clock the write of another may be: what is
// further ahead is refused, since every later write would have to follow it there.
const DriftLimit = 24 * time.Hour

// clockSet is a time before which no clock was set since its host started, in seconds: 2025-01-01.
const clockSet = 1_735_689_600

// LatestBelieved is the latest time of a write that a node takes from another, by its own clock.
// A clock that was never set says nothing about others.
func LatestBelieved(wall time.Time) uint64 {
	if wall.Unix() < clockSet {
		return timeLimit
	}
	return Micros(wall.Add(DriftLimit))
}

// WrittenBy refuses a record that was written after limit: Tick would follow it there, and
// at the end of time nobody could write any more.
func (r Record) WrittenBy(limit uint64) error {
	if r.Version.Time <= limit {
		return nil
	}
	return Refuse(BadRecord, "set the clock of the node that wrote it", "record %.20q %s of node %.40q is of the time %d, and %d is the limit here",
		string(r.Kind), r.ID, string(r.Version.Writer), r.Version.Time, limit)
}

// WrittenAt is the record as if it was written at an earlier time, not sealed; no claim is
// later then.
func (r Record) WrittenAt(time uint64) Record {
	r.Body, r.Sig = nil, nil
	r.Version.Time, r.Claim = time, min(r.Claim, time)
	if r.Node != nil {
		r.Node = r.Node.clone()
		r.Node.SlotClaim = min(r.Node.SlotClaim, time)
		r.Node.Synced = min(r.Node.Synced, time)
		for i := range r.Node.Blocks {
			r.Node.Blocks[i].Claim = min(r.Node.Blocks[i].Claim, time)
		}
	}
	if r.Endpoint != nil {
		r.Endpoint = r.Endpoint.clone()
		for i := range r.Endpoint.Left {
			r.Endpoint.Left[i].Since = min(r.Endpoint.Left[i].Since, time)
		}
	}
	if r.Network != nil {
		n := *r.Network
		n.More = slices.Clone(n.More)
		for i := range n.More {
			n.More[i].Claim = min(n.More[i].Claim, time)
		}
		r.Network = &n
	}
	return r
}
