package trace

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// outcome is how a packet leaves a chain or a hook.
type outcome struct {
	verdict verdict
	by      string // the rule, or the chain whose policy it is
	device  string // where fwd sends it
}

type verdict string

const (
	goesOn   verdict = "" // to the next rule, or the next chain of the hook
	accepts  verdict = "accept"
	drops    verdict = "drop"
	rejects  verdict = "reject"
	forwards verdict = "fwd"
	returns  verdict = "return" // to the calling chain; from a base chain to its policy
)

// base is a base chain's hook line.
type base struct {
	kind, hook, device string
	priority           int
	policy             verdict
}

// parseBase reads "type T hook H [device "D"] priority P; policy V;".
func parseBase(text string) (b base, err error) {
	unknown := fmt.Errorf("read hook line %q: its shape is not known", text)
	words := strings.Fields(strings.ReplaceAll(text, ";", " ;"))
	if len(words) > 5 && words[4] == "device" {
		b.device = strings.Trim(words[5], `"`)
		words = slices.Delete(words, 4, 6)
	}
	if len(words) != 10 || words[0] != "type" || words[2] != "hook" || words[4] != "priority" || words[7] != "policy" {
		return b, unknown
	}
	b.kind, b.hook, b.policy = words[1], words[3], verdict(words[8])
	named := map[string]int{"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
	var ok bool
	if b.priority, ok = named[words[5]]; !ok {
		if b.priority, err = strconv.Atoi(words[5]); err != nil {
			return b, unknown
		}
	}
	if !slices.Contains([]string{"filter", "nat", "route"}, b.kind) || b.policy != accepts && b.policy != drops {
		return b, unknown
	}
	return b, nil
}

// baseChain is a base chain where it stands.
type baseChain struct {
	base
	table *plan.Table
	chain *plan.Chain
}

// span is a part of a hook, by priority: from the first to before the second.
type span struct{ from, to int }

// wholeHook is all of it; IPVS sits in the middle of one (back.go).
func wholeHook() span { return span{math.MinInt, math.MaxInt} }

// hook runs the packet through a hook of the sandbox that it is in.
func (w *walk) hook(name string, p *packet) error { return w.hookSpan(name, p, wholeHook()) }

func (w *walk) hookSpan(name string, p *packet, part span) error {
	return w.pass("inet", name, p, part)
}

// pass runs the packet through a part of a hook of one family.
func (w *walk) pass(family, name string, p *packet, part span) error {
	chains, err := w.chains(family, name)
	if err != nil {
		return err
	}
	for _, c := range chains {
		// A nat chain sees a flow's first packet only; conntrack does the rest.
		if c.priority < part.from || c.priority >= part.to || c.kind == "nat" && p.ct != ctNew {
			continue
		}
		out, err := w.chain(c, p)
		if err != nil {
			return err
		}
		switch out.verdict {
		case drops:
			return breakf("dropped: %s", out.by)
		case rejects:
			return breakf("refused: %s", out.by)
		case forwards:
			return fmt.Errorf("chain %s: fwd in hook %s is not known", c.chain.Name, name)
		case accepts, goesOn, returns:
		}
	}
	return nil
}

// egress runs the packet through a device's egress hook; a device is returned
// where a rule sends it to another one.
func (w *walk) egress(p *packet) (string, error) {
	chains, err := w.chains("netdev", "egress")
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		if c.device != p.oif {
			continue
		}
		out, err := w.chain(c, p)
		switch {
		case err != nil:
			return "", err
		case out.verdict == forwards:
			return out.device, nil
		case out.verdict != accepts:
			return "", breakf("dropped: %s", out.by)
		}
	}
	return "", nil
}

// chains lists the base chains of a hook in the order of their priorities.
func (w *walk) chains(family, hook string) ([]baseChain, error) {
	var found []baseChain
	for _, t := range w.sandbox.AllTables() {
		if !slices.Contains([]string{"inet", "netdev", "bridge", string(plan.IPv4), string(plan.IPv6)}, t.Family) {
			return nil, fmt.Errorf("sandbox %s: tables of family %s are not known", w.sandbox.Name, t.Family)
		}
		if t.Family != family {
			continue
		}
		for _, c := range t.Chains {
			if c.Base == "" {
				continue
			}
			b, err := parseBase(c.Base)
			if err != nil {
				return nil, err
			}
			if b.hook == hook {
				found = append(found, baseChain{b, t, c})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b baseChain) int { return cmp.Compare(a.priority, b.priority) })
	return found, nil
}

// familyOf tells tables apart: of each family there is one, and the lock.
func familyOf(t *plan.Table) string {
	if t.Name == "" {
		return t.Family
	}
	return plan.Join(t.Family, t.Name)
}

func (w *walk) chain(c baseChain, p *packet) (outcome, error) {
	w.note(Object{Sandbox: w.sandbox.Name, ref: ref{family: familyOf(c.table)}})
	out, err := w.rules(c.table, c.chain, p)
	if err == nil && out.verdict == goesOn {
		out = outcome{verdict: c.policy, by: fmt.Sprintf("chain %s, policy %s", c.chain.Name, c.policy)}
	}
	return out, err
}

// rules runs a chain's rules until one decides.
func (w *walk) rules(t *plan.Table, c *plan.Chain, p *packet) (outcome, error) {
	for _, text := range c.Rules {
		r, err := newReader(text)
		if err != nil {
			return outcome{}, err
		}
		s := statement{walk: w, table: t, chain: c, text: text, reader: r, p: p}
		out, err := s.run()
		if out.verdict == returns {
			return outcome{}, err
		}
		if err != nil || out.verdict != goesOn {
			return out, err
		}
	}
	return outcome{}, nil
}
