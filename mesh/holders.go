package mesh

import "slices"

// holders are those whom one text means, of whom the oldest come first. A stack's own do not clash
// with those of other stacks, which may be many, so that each looks at few.
type holders struct {
	few   []*alike             // in no stack, or written with theirs
	own   map[string][]*alike  // the others, by stack
	apart map[NetworkID]onEach // these again, by the network that the text ends in, two stacks' at most
}

// alike are those whom a text means in the same way: whoever is not one of them clashes with all or none.
type alike struct {
	meant // the oldest
	onEach
}

// onEach are the two oldest on each network: whoever is not one of two meets either.
type onEach map[NetworkID][]holder

// holder is one whom a text means, with its place in age.
type holder struct {
	called
	age int
}

// nowhere is the network of those that are on none. They hide nothing, and are told of all the same.
const nowhere NetworkID = ""

func (e onEach) add(h holder, on []NetworkID, alike func(a, b called) bool) {
	for _, id := range on {
		if have := e[id]; len(have) < 2 && !slices.ContainsFunc(have, func(other holder) bool { return alike(h.called, other.called) }) {
			e[id] = append(have, h)
		}
	}
}

func (t *holders) add(m meant, age int, on []NetworkID) {
	h := holder{m.called, age}
	if m.stacked || m.writing.stack == "" {
		t.few = withAlike(t.few, m, h, on)
		return
	}
	if t.own == nil {
		t.own, t.apart = map[string][]*alike{}, map[NetworkID]onEach{}
	}
	t.own[m.writing.stack] = withAlike(t.own[m.writing.stack], m, h, on)
	if t.apart[m.network] == nil {
		t.apart[m.network] = onEach{}
	}
	t.apart[m.network].add(h, on, func(a, b called) bool { return a.stack == b.stack })
}

func withAlike(list []*alike, m meant, h holder, on []NetworkID) []*alike {
	i := slices.IndexFunc(list, func(a *alike) bool { return a.likewise(m) })
	if i < 0 {
		i, list = len(list), append(list, &alike{m, onEach{}})
	}
	list[i].add(h, on, called.same)
	return list
}

// olders are the networks of those in whose place m would be found, and the oldest of them.
type olders struct {
	on     map[NetworkID]bool
	oldest holder
	looked int // at how many to find these
}

func (t *holders) against(m meant) olders {
	var found olders
	for _, list := range [][]*alike{t.few, t.own[m.writing.stack]} {
		for _, a := range list {
			found.looked++
			if a.clashes(m.writing) && !a.shares(m.called) {
				found.add(a.onEach, func(c called) bool { return !c.same(m.called) })
			}
		}
	}
	for network, e := range t.apart {
		if m.stacked || m.writing.stack == "" && network != "" && network != m.network {
			found.add(e, func(c called) bool { return c.stack != m.writing.stack })
		}
	}
	return found
}

func (f *olders) add(e onEach, other func(called) bool) {
	for id, list := range e {
		f.looked++
		i := slices.IndexFunc(list, func(h holder) bool { return other(h.called) })
		if i < 0 {
			continue
		}
		if f.on == nil {
			f.on, f.oldest = map[NetworkID]bool{}, list[i]
		}
		if f.on[id] = true; list[i].age < f.oldest.age {
			f.oldest = list[i]
		}
	}
}
