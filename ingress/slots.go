package ingress

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"slices"
)

// Slots spread a front's backends over the numbers 0 to n-1, from which the nft
// balancer draws one per connection: slots[i] is an index into the backends.

// widths are the numbers of slots that there are chains for, ascending. Up to 16
// every sum of weights is met exactly.
func widths() []int {
	return []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 64, 256, 1024}
}

// clientSlots is the number of slots of a front that chooses by client. It does not
// depend on the backends: if it did, one more of them would move every client. Shares are
// as even as the lots drawn for slots: with 2048, of three backends one in three has more
// than 1 % of all clients too many or too few.
const clientSlots = 2048

// spread gives every backend slots by its weight; none where no weight is left.
// A share is met to one slot: exactly up to 16 slots, otherwise to 1/16 of it or better as
// long as 1024 slots are enough.
func spread(backends []Backend) []int {
	divisor, sum := 0, 0
	for _, b := range backends {
		divisor = gcd(divisor, b.Weight)
		sum += b.Weight
	}
	if sum == 0 {
		return nil
	}
	width := widthFor(sum / divisor)
	counts := apportion(backends, sum, width)
	slots := make([]int, 0, width)
	for i, n := range counts {
		slots = append(slots, slices.Repeat([]int{i}, n)...)
	}
	return slots
}

// equally are the backends as schedulers see them that look at no weight but 0.
func equally(backends []Backend) []Backend {
	equal := slices.Clone(backends)
	for i := range equal {
		equal[i].Weight = min(equal[i].Weight, 1)
	}
	return equal
}

func widthFor(shares int) int {
	all := widths()
	const exact, fine = 16, 16
	if shares <= exact {
		return shares
	}
	for _, w := range all {
		if w >= shares*fine {
			return w
		}
	}
	return all[len(all)-1]
}

// apportion rounds shares down and gives what is left to the largest remainders.
func apportion(backends []Backend, sum, width int) []int {
	counts, order := make([]int, len(backends)), make([]int, len(backends))
	left := width
	for i, b := range backends {
		counts[i], order[i] = b.Weight*width/sum, i
		left -= counts[i]
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(backends[b].Weight*width%sum, backends[a].Weight*width%sum)
	})
	for _, i := range order[:left] {
		counts[i]++
	}
	return counts
}

// byClient gives each slot to the backend that draws the best lot for it, by
// weighted rendezvous: all nodes agree without a word, and a backend that comes or
// goes moves only the slots that it gets or had.
func byClient(backends []Backend) []int {
	if !slices.ContainsFunc(backends, func(b Backend) bool { return b.Weight > 0 }) {
		return nil
	}
	slots := make([]int, clientSlots)
	for slot := range slots {
		best := math.Inf(1)
		for i, b := range backends {
			if b.Weight == 0 {
				continue
			}
			if lot := -math.Log(draw(b, slot)) / float64(b.Weight); lot < best {
				best, slots[slot] = lot, i
			}
		}
	}
	return slots
}

// draw is a number between 0 and 1 that depends on backend and slot alone.
func draw(b Backend, slot int) float64 {
	h := fnv.New64a()
	addr := b.V4.As4()
	h.Write(addr[:])
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(slot)))
	x := h.Sum64()
	// FNV mixes its last bytes poorly into the high bits (Stafford's finalizer, variant 13).
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	const bits = 53 // of a float64's fraction, so that the result is exact
	return (float64(x>>(64-bits)) + 0.5) / (1 << bits)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
