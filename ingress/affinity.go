package ingress

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// Client affinity by nftables. Of a service that has it, each connection's first packet
// goes another way:
//
//	affine4, affine6: (mark, client) -> the backend it had, while that is not too long ago
//	 known, and the backend takes new connections: there, and the time begins anew
//	 otherwise what was learned is forgotten, a slot is drawn as for others (draws), and
//	 ids: (mark, slot) -> backend, which is learned
//	slots: (service, backend) -> endpoint address and target port: DNAT
//
// A backend is its IPv4 address, as a number: the same whatever else comes and goes, and
// never a slot's number. Where the map is full a client is balanced all the same, and not learned.

// A way's number is the seconds of affinity, with this bit.
const byAffinity = 1 << 20

// affineLimit is how many clients a node remembers, in each family, over all fronts.
const affineLimit = 1 << 16

// affine4 and affine6 are who asks: the front and the client. nft 1.0.6 writes the value
// over the end of a key of more than 16 bytes, so that of an IPv6 client the /64 is there
// and a hash of the whole: two that share both go to one backend.
const (
	affine4 = "ct mark . ip saddr"
	affine6 = "ct mark . @nh,64,32 . @nh,96,32 . jhash ip6 saddr mod 0xffffffff seed 0x51"
)

// idOf is the number by which a backend is remembered.
func idOf(b Backend) string {
	a := b.V4.As4()
	return plan.HexMark(binary.BigEndian.Uint32(a[:]))
}

// affinityMaps are what only fronts with affinity have elements in.
func affinityMaps(table *plan.Table) (draws, ids *plan.Set) {
	table.Learn("affine4", affineLimit, plan.FieldMark, plan.FieldMark, plan.FieldIPv4)
	table.Learn("affine6", affineLimit, plan.FieldMark, plan.FieldMark, plan.FieldWord, plan.FieldWord, plan.FieldWord)
	draws = table.Map("draws", plan.FieldMark, plan.FieldMark)
	return draws, table.Map("ids", plan.FieldMark, plan.FieldMark, plan.FieldMark)
}

// affinities are the times that fronts have, ascending, and always the usual one: with
// that no rule changes when it is used first.
func affinities(fronts []Front) []time.Duration {
	times := map[time.Duration]bool{mesh.AffinityDefault: true}
	for i := range fronts {
		if d := fronts[i].Service.Affinity; d != 0 {
			times[d] = true
		}
	}
	all := slices.Sorted(maps.Keys(times))
	for len(all) > timesLimit { // every second one, and always the longest
		fewer := all[:0]
		for i, d := range all {
			if (len(all)-1-i)%2 == 0 {
				fewer = append(fewer, d)
			}
		}
		all = fewer
	}
	return all
}

// timesLimit is how many times have chains: beyond it those are rounded up to the next
// that has.
const timesLimit = 32

func roundedUp(d time.Duration, times []time.Duration) time.Duration {
	i, _ := slices.BinarySearch(times, d)
	return times[i]
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }

// affinityChains are three for each time: the timeout is in the rule. They lead to chain pick
// and come back where the backend takes no new connection.
func affinityChains(table *plan.Table, times []time.Duration) (ways []string) {
	for _, d := range times {
		n := seconds(d)
		keep, known, name := fmt.Sprintf("keep%d", n), fmt.Sprintf("known%d", n), fmt.Sprintf("affine%d", n)
		table.Chain(keep, "").Rule(
			fmt.Sprintf("meta nfproto ipv4 update @affine4 { %s timeout %ds : meta mark }", affine4, n),
			fmt.Sprintf("meta nfproto ipv6 update @affine6 { %s timeout %ds : meta mark }", affine6, n),
			// The client's other connection, on another processor, may have come first.
			fmt.Sprintf("meta nfproto ipv4 meta mark set %s map @affine4", affine4),
			fmt.Sprintf("meta nfproto ipv6 meta mark set %s map @affine6", affine6),
			"goto pick",
		)
		table.Chain(known, "").Rule(
			"jump "+keep,
			// An update changes the time of what is there, never its value. Nothing is deleted
			// where nothing was known: it would be what another connection has just learned.
			fmt.Sprintf("meta nfproto ipv4 delete @affine4 { %s : meta mark }", affine4),
			fmt.Sprintf("meta nfproto ipv6 delete @affine6 { %s : meta mark }", affine6),
		)
		table.Chain(name, "").Rule(
			fmt.Sprintf("meta nfproto ipv4 meta mark set %s map @affine4 jump %s", affine4, known),
			fmt.Sprintf("meta nfproto ipv6 meta mark set %s map @affine6 jump %s", affine6, known),
			"meta mark set ct mark map @draws jump draw",
			"goto "+keep,
		)
		ways = append(ways, fmt.Sprintf("%s : goto %s", plan.HexMark(n|byAffinity), name))
	}
	return ways
}
