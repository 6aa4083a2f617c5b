package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// nftTries is how often tables are read again when somebody changes rules
// meanwhile; any table's change in the namespace counts.
const nftTries = 5

// trustedReads is after how many readings of one generation the last is relied on: one
// alone may have been made while the kernel grew a set (see setReads).
const trustedReads = 2

// nftReading is what was read last: good until the kernel's generation of rules
// moves, which spares reading back ten thousands of elements for nothing.
type nftReading struct {
	reads      int // how often it was read at this generation; 0: never
	generation uint32
	skeletons  string // of the wanted tables, and their devices: what it was compared with
	tables     []loadedTable
}

// skeletonsOf changes with the rules of any table, and with the devices they bind to.
func (n *namespace) skeletonsOf(want []*plan.Table) string {
	var text strings.Builder
	for _, t := range want {
		text.WriteString(skeletonSum(t) + n.deviceStamp(t) + " ")
	}
	return text.String()
}

// observeNFT says which tables of ours the namespace holds, one a family, with
// the elements of those whose rules are the wanted ones. The result is shared
// with later calls: it is not to be changed.
func (n *namespace) observeNFT(want []*plan.Table) ([]loadedTable, error) {
	skeletons := n.skeletonsOf(want)
	last := n.nft.last
	same := func(generation uint32) bool { return last.generation == generation && last.skeletons == skeletons }
	tables, generation, err := atOneGeneration(n, func(generation uint32) ([]loadedTable, bool) {
		return last.tables, same(generation) && last.reads >= trustedReads
	}, func() ([]loadedTable, error) {
		tables, err := n.readTables(want)
		if err != nil {
			n.nft.close() // with answers nobody waits for any more
		}
		return tables, err
	})
	switch {
	case err != nil && len(want) == 0 && isMissing(err):
		return nil, nil // and none can be there
	case err != nil:
		return nil, fmt.Errorf("read nft tables: %w", err)
	}
	n.nft.last = nftReading{reads: 1, generation: generation, skeletons: skeletons, tables: tables}
	if same(generation) {
		n.nft.last.reads = min(last.reads+1, trustedReads)
	}
	return tables, nil
}

// atOneGeneration reads what is not known of a generation of the namespace's rules. What
// was read while somebody changed rules may be half of one and half of another: it is
// read again.
func atOneGeneration[T any](n *namespace, known func(generation uint32) (T, bool), read func() (T, error)) (found T, generation uint32, err error) {
	for range nftTries {
		before, err := n.nftGeneration()
		if err != nil {
			return found, 0, err
		}
		if last, ok := known(before); ok {
			return last, before, nil
		}
		found, readErr := read()
		after, err := n.nftGeneration()
		switch {
		case err != nil:
			return found, 0, err
		case before == after:
			return found, before, readErr
		}
	}
	return found, 0, fmt.Errorf("rules changed during each of %d tries", nftTries)
}

// reading is what was read last: good until the generation of rules moves.
type reading[T any] struct {
	read       bool
	generation uint32
	value      T
}

// refresh reads where the generation has moved.
func (r *reading[T]) refresh(n *namespace, read func() (T, error)) (T, error) {
	found, generation, err := atOneGeneration(n, func(generation uint32) (T, bool) {
		return r.value, r.read && r.generation == generation
	}, read)
	if err == nil {
		*r = reading[T]{true, generation, found}
	}
	return found, err
}

func isMissing(err error) bool {
	var no *Refusal
	return errors.As(err, &no) && no.Reason == plan.FeatureMissing
}

// nftGeneration counts the transactions of the namespace, whoever made them.
func (n *namespace) nftGeneration() (uint32, error) {
	reply, err := n.askNFT(unix.NFT_MSG_GETGEN, nftables.TableFamilyUnspecified, 0, nil)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return 0, &Refusal{plan.FeatureMissing, "this kernel has no nf_tables", "load the module nf_tables"}
	case err != nil:
		return 0, fmt.Errorf("read nft generation: %w", err)
	case len(reply) != 1:
		return 0, fmt.Errorf("read nft generation: %d answers", len(reply))
	}
	ad, err := attributes(reply[0])
	if err != nil {
		return 0, fmt.Errorf("read nft generation: %w", err)
	}
	var id uint32
	for ad.Next() {
		if ad.Type() == unix.NFTA_GEN_ID {
			id = ad.Uint32()
		}
	}
	return id, ad.Err()
}

func (n *namespace) readTables(want []*plan.Table) ([]loadedTable, error) {
	conn, err := n.nftConn()
	if err != nil {
		return nil, err
	}
	present, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nft tables: %w", err)
	}
	var tables []loadedTable
	for _, p := range present {
		family := familyName(p.Family)
		if p.Name != plan.TableName || family == "" {
			continue
		}
		var skeleton *plan.Table
		for _, t := range want {
			if t.Family == family {
				skeleton = t
			}
		}
		t, err := n.readTable(p, skeleton)
		if err != nil {
			return nil, fmt.Errorf("read table %s %s: %w", family, plan.TableName, err)
		}
		tables = append(tables, t)
	}
	slices.SortFunc(tables, func(a, b loadedTable) int { return cmp.Compare(a.family, b.family) })
	return tables, nil
}

// familyName is the inverse of familyOf; "" for one that we do not use.
func familyName(f nftables.TableFamily) string {
	for _, name := range []string{"inet", "netdev", "bridge", "ip", "ip6"} {
		if have, err := familyOf(name); err == nil && have == f {
			return name
		}
	}
	return ""
}

// readTable reads one of our tables. Elements are read only where the rules are
// those of skeleton: otherwise the whole table will be loaded again.
func (n *namespace) readTable(p *nftables.Table, skeleton *plan.Table) (loadedTable, error) {
	t := loadedTable{family: familyName(p.Family)}
	chains, err := n.readChains(p.Family)
	if err != nil {
		return t, err
	}
	stamp, rules := "", ""
	for name := range chains {
		if carried, ok := strings.CutPrefix(name, rulesChain); ok {
			rules = carried
		}
		if carried, ok := strings.CutPrefix(name, sumChain); ok {
			t.sum, _, _ = strings.Cut(carried, "_")
			stamp = carried[len(t.sum):]
		}
	}
	if skeleton == nil || t.sum != skeletonSum(skeleton) {
		return t, nil
	}
	names, err := n.readSetNames(p.Family)
	if err != nil {
		return t, err
	}
	t.intact = p.Flags == 0 && rules == rulesSum(chains) && stamp == n.deviceStamp(skeleton) &&
		holds(t.family, chains, skeleton) && holdsSets(names, skeleton)
	if !t.intact {
		return t, nil
	}
	for _, s := range skeleton.Sets {
		if s.Learned > 0 {
			continue // whatever is in it, it is as it should be
		}
		set, err := n.readSet(p, s)
		if errors.Is(err, errForeign) {
			t.intact = false
			return t, nil
		}
		if err != nil {
			return t, err
		}
		t.sets = append(t.sets, set)
	}
	return t, nil
}

func holdsSets(names map[string]bool, skeleton *plan.Table) bool {
	for _, s := range skeleton.Sets {
		if !names[s.Name] {
			return false
		}
	}
	return true
}

// errForeign says that a set holds what no plan could have put there.
var errForeign = errors.New("element that is not ours")

// setReads is how often a set is read that seems to lack elements. The kernel grows
// the hash table of a set after it was filled, and a dump meanwhile may leave out
// some or tell some twice; no generation moves by that.
const setReads = 4

func (n *namespace) readSet(t *nftables.Table, want *plan.Set) (*plan.Set, error) {
	set := &plan.Set{Name: want.Name, Key: want.Key, Value: want.Value, Ranges: want.Ranges}
	found := make(map[plan.Element]bool, len(want.Elements))
	for range setReads {
		err := n.readElements(t, want.Name, func(h rawElement) error {
			e, err := elementText(want, h)
			if err != nil {
				return fmt.Errorf("%w: %w", errForeign, err)
			}
			found[e] = true
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", want.Name, err)
		}
		if len(found) >= len(want.Elements) {
			break
		}
	}
	set.Elements = slices.AppendSeq(make([]plan.Element, 0, len(found)), maps.Keys(found))
	slices.SortFunc(set.Elements, func(a, b plan.Element) int { return cmp.Compare(a.Key, b.Key) })
	return set, nil
}

// holds says whether every chain of the skeleton is there, hooked where it
// should be, with its policy and as many rules.
func holds(family string, chains map[string]kernelChain, skeleton *plan.Table) bool {
	for _, want := range skeleton.Chains {
		have, ok := chains[want.Name]
		base := want.Base != ""
		switch {
		case !ok, have.hooked != base, have.rules != len(want.Rules):
			return false
		case base && have.drops != strings.Contains(want.Base, "policy drop"):
			return false
		case base && family == "netdev" && have.devices == 0:
			return false // since Linux 6.10 a chain outlives its device
		}
	}
	return true
}
