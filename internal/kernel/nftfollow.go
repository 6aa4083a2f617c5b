package kernel

import "github.com/sluice-mesh/sluice/internal/plan"

// follow makes of what was read before a change of ours what would be read after it:
// reading ten thousands of elements back takes a thousand times as long as changing
// one. The kernel counts transactions. Where exactly one came between, it was ours;
// otherwise everything is read at the next look.
func (n *namespace) follow(before nftReading, c ElementChange) {
	if before.reads == 0 {
		return
	}
	generation, err := n.nftGeneration()
	if err != nil || generation != before.generation+1 {
		return
	}
	tables, ok := changed(before.tables, c)
	if !ok {
		return
	}
	before.generation, before.tables = generation, tables
	n.nft.last = before
}

// changed is tables after a change; not ok where they lack what was changed. The tables
// themselves stay as they are: others hold them.
func changed(tables []loadedTable, c ElementChange) (after []loadedTable, ok bool) {
	after = append([]loadedTable(nil), tables...)
	for i := range after {
		t := &after[i]
		if t.family != c.Family {
			continue
		}
		t.sets = append([]*plan.Set(nil), t.sets...)
		left := len(c.Sets)
		for j, held := range t.sets {
			for _, s := range c.Sets {
				if s.Set.Name == held.Name {
					next := *held
					next.Elements = patched(held.Elements, s.Gone, s.Come)
					t.sets[j] = &next
					left--
				}
			}
		}
		return after, left == 0
	}
	return nil, false
}
