package gossip

import (
	"slices"

	"github.com/sluice-mesh/sluice/mesh"
)

// level makes some buckets equal, but for what one side refused a moment ago.
func (x *exchange) level(buckets []uint8) error {
	ours := x.headsHere(buckets)
	if len(ours) == 0 && !x.refused.any(x.self) {
		was := x.moved
		if err := x.get(frameFetch, buckets); err != nil || x.moved > was {
			return err
		}
		// Nothing of it was taken: the heads tell what it was.
	}
	theirs, err := x.heads(buckets)
	if err != nil {
		return err
	}
	give, want := differ(ours, theirs)
	have, offered := sumsByKey(ours), sumsByKey(theirs)
	if err := x.give(x.refused.untaken(x.peer, give, have), have); err != nil {
		return err
	}
	want = x.refused.untaken(x.self, want, offered)
	for keys := range slices.Chunk(want, keysAtOnce) {
		var payload []byte
		for _, k := range keys {
			payload = appendKey(payload, k)
		}
		if err := x.get(frameWant, payload); err != nil {
			return err
		}
	}
	if len(want) > 0 {
		x.noteUntaken(buckets, want, theirs)
	}
	return nil
}

func (x *exchange) headsHere(buckets []uint8) (heads []mesh.Head) {
	for _, b := range buckets {
		heads = append(heads, x.state.Heads(b)...)
	}
	return heads
}

// noteUntaken remembers which of the records that were asked for are still not here, and forgets
// the others.
func (x *exchange) noteUntaken(buckets []uint8, asked []mesh.Key, theirs []mesh.Head) {
	_, missing := differ(x.headsHere(buckets), theirs)
	still := make(map[mesh.Key]bool, len(missing))
	for _, k := range missing {
		still[k] = true
	}
	offered := sumsByKey(theirs)
	for _, k := range asked {
		if one := (refusal{x.self, k, offered[k]}); still[k] {
			x.refused.note(one)
		} else {
			x.refused.taken(one)
		}
	}
}

func (x *exchange) heads(buckets []uint8) ([]mesh.Head, error) {
	if err := x.write(frameAsk, buckets); err != nil {
		return nil, err
	}
	var heads []mesh.Head
	err := x.untilEnd(frameHeads, func(payload []byte) error {
		part, err := decodeHeads(payload)
		if heads = append(heads, part...); len(heads) > headsLimit {
			return badFrame("more than %d heads came for %d buckets", headsLimit, len(buckets))
		}
		return err
	})
	return heads, err
}

// differ tells which records the other side lacks or has older, and which this one. Of one
// version with two contents each side gets the other's, and both keep the same.
func differ(ours, theirs []mesh.Head) (give, want []mesh.Key) {
	there := make(map[mesh.Key]mesh.Head, len(theirs))
	for _, h := range theirs {
		there[h.Key] = h
	}
	for _, h := range ours {
		other, ok := there[h.Key]
		delete(there, h.Key)
		order := h.Version.Compare(other.Version)
		if ok && shorten(other.Sum) == shorten(h.Sum) {
			continue
		}
		if !ok || order >= 0 {
			give = append(give, h.Key)
		}
		if ok && order <= 0 {
			want = append(want, h.Key)
		}
	}
	for _, h := range theirs {
		if _, left := there[h.Key]; left {
			want = append(want, h.Key)
			delete(there, h.Key) // it may have been listed twice
		}
	}
	return give, want
}
