package kernel

import (
	"slices"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Our own base chain's accept is not final: a packet is forwarded only where every
// base chain on the hook lets it, those of other programs too. What is here is pure:
// it says where in their rules something of ours would have to stand.

// tableRef names a table of rules. It is comparable.
type tableRef struct {
	Tool   tool
	Family string // ip, ip6, inet
	Name   string
}

// tool is what a table may be changed with.
type tool string

// The tools. iptables rules live in nft tables since 2018, and in tables of their
// own before; a program that changes the one does not see the other.
const (
	toolNFT      tool = "nft"
	toolIPTables tool = "iptables"
	toolLegacy   tool = "iptables-legacy"
)

// hook is where a base chain is asked.
type hook string

const (
	hookForward hook = "forward"
	hookInput   hook = "input"
)

// foreignTable is one of another program's tables that has a base chain on a hook
// that concerns us.
type foreignTable struct {
	tableRef
	owned  bool  // by a process: the kernel lets nobody else change it
	unread error // why nobody can tell what is in it
	chains map[string]*foreignChain
}

// foreignChain is a chain, with what can be told of its rules.
type foreignChain struct {
	hook  hook // "" for a regular one
	drops bool // by policy
	rules []foreignRule
}

// foreignRule is what one rule does with every packet. What asks for something
// first is the empty verdict.
type foreignRule struct {
	handle  uint64 // nft's
	verdict verdict
	target  string       // of jump and goto
	ours    plan.Passage // an accept that we put there; zero: not ours
}

// verdict is what a rule without a condition decides.
type verdict string

const (
	goesOn  verdict = "" // or depends on the packet
	accepts verdict = "accept"
	drops   verdict = "drop" // or reject
	returns verdict = "return"
	jumps   verdict = "jump"
	goesTo  verdict = "goto"
)

// spot is where in a table our accepts have to stand: directly before a rule that
// drops whatever comes to it, or at the end.
type spot struct {
	chain string
	index int // among the chain's rules, ours included
}

// places are those of all base chains on the hook. A base chain in which nothing
// drops by default has none.
func (t *foreignTable) places(h hook) []spot {
	var found []spot
	known := map[string]fate{}
	for _, name := range t.baseChains(h) {
		c := t.chains[name]
		f := t.walk(name, known)
		if f.end == goesOn && c.drops {
			f = fate{spot{name, len(c.rules)}, drops}
		}
		if f.end == drops && !slices.Contains(found, f.spot) {
			found = append(found, f.spot)
		}
	}
	return found
}

func (t *foreignTable) baseChains(h hook) []string {
	var names []string
	for name, c := range t.chains {
		if c.hook == h {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// fate is what becomes of a packet that no rule of a chain has anything special to
// say of: it is dropped, and where, or accepted, or it goes on behind the chain.
type fate struct {
	spot spot // of drops
	end   verdict
}

// walk tells a chain's fate. known are those that were asked for already.
func (t *foreignTable) walk(chain string, known map[string]fate) fate {
	f, ok := known[chain]
	c := t.chains[chain]
	if ok || c == nil {
		return f
	}
	known[chain] = fate{} // chains that lead back to themselves, which the kernel refuses, end
	f = t.fate(chain, c, known)
	known[chain] = f
	return f
}

func (t *foreignTable) fate(name string, c *foreignChain, known map[string]fate) fate {
	for i, r := range c.rules {
		switch r.verdict {
		case accepts:
			return fate{end: accepts}
		case drops:
			return fate{spot{name, i}, drops}
		case returns:
			return fate{}
		case jumps, goesTo:
			if f := t.walk(r.target, known); f.end != goesOn || r.verdict == goesTo {
				return f
			}
		case goesOn:
		}
	}
	return fate{}
}

// edit is one change of a chain: taking out the rule at index, or inserting
// passage before it. Indexes count as the chain is when this edit's turn comes.
type edit struct {
	chain   string
	index   int
	removed foreignRule  // its ours is zero: this inserts
	before  uint64       // handle of the rule now at index; 0: at the end
	passage plan.Passage // to insert
}

// edits make our accepts stand at each place that the hook has, in the order of
// want, and nowhere else; none where they do.
func (t *foreignTable) edits(want []plan.Passage) []edit {
	places := t.places(hookForward)
	if len(want) == 0 {
		places = nil
	}
	if t.arranged(places, want) {
		return nil
	}
	var out []edit
	rest := map[string]int{} // rules of ours before the place, which go first
	for _, name := range t.chainsOfOurs() {
		for i, r := range slices.Backward(t.chains[name].rules) {
			if r.ours != (plan.Passage{}) {
				out = append(out, edit{chain: name, index: i, removed: r})
			}
		}
	}
	for _, p := range places {
		rules := t.chains[p.chain].rules
		for _, r := range rules[:p.index] {
			if r.ours != (plan.Passage{}) {
				rest[p.chain]++
			}
		}
		var before uint64
		if p.index < len(rules) {
			before = rules[p.index].handle
		}
		for i, w := range want {
			out = append(out, edit{chain: p.chain, index: p.index - rest[p.chain] + i, before: before, passage: w})
		}
	}
	return out
}

// chainsOfOurs are those that hold a rule of ours, sorted.
func (t *foreignTable) chainsOfOurs() []string {
	var names []string
	for name, c := range t.chains {
		if slices.ContainsFunc(c.rules, func(r foreignRule) bool { return r.ours != (plan.Passage{}) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// arranged tells whether want stands at each place, directly before it, and
// nothing of ours anywhere else.
func (t *foreignTable) arranged(places []spot, want []plan.Passage) bool {
	count := 0
	for _, c := range t.chains {
		for _, r := range c.rules {
			if r.ours != (plan.Passage{}) {
				count++
			}
		}
	}
	if count != len(places)*len(want) {
		return false
	}
	for _, p := range places {
		if p.index < len(want) {
			return false
		}
		for i, r := range t.chains[p.chain].rules[p.index-len(want) : p.index] {
			if r.ours != want[i] {
				return false
			}
		}
	}
	return true
}

// carry is the table after an edit.
func (t *foreignTable) carry(e edit) {
	c := t.chains[e.chain]
	if e.removed.ours != (plan.Passage{}) {
		c.rules = slices.Delete(slices.Clone(c.rules), e.index, e.index+1)
		return
	}
	c.rules = slices.Insert(slices.Clone(c.rules), e.index, foreignRule{ours: e.passage})
}
