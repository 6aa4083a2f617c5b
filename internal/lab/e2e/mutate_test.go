package e2e

import (
	"cmp"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
)

var mutateAll = flag.Bool("mutate", false, "take every rule of a node away, one after the other (make mutate)")

// TestMutate takes parts of a node's rules away while no agent runs. Those that have a line
// are noticed by the questions in it, with -mutate all of them and without it some. A part that has none
// is taken away in any case, and every question asked: what notices belongs into its line.
func TestMutate(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	met, tried := map[string]bool{}, map[kindOfWorld]bool{}
	for _, kind := range worlds() {
		if kind == openWorld || *mutateAll { // few rules are in another alone
			t.Run(cmp.Or(string(kind), "open"), func(t *testing.T) {
				startMutated(t, kind).mutate(t, met)
				tried[kind] = true
			})
		}
	}
	for _, l := range lines() {
		if tried[l.world] && !met[l.part] {
			t.Errorf("no table has the part any more: %s", l.part)
		}
	}
}

// mutate goes through the parts of one world and says in met which there were.
func (w *mutated) mutate(t *testing.T, met map[string]bool) {
	t.Helper()
	const some = 12 // one part in so many, where not all are asked for
	ask := w.questions(t)
	if *mutateAll {
		w.whole(t, ask)
	}
	if t.Failed() {
		t.FailNow()
	}
	parts := w.parts(t)
	t.Logf("%d parts, %d questions", len(parts), len(ask))
	for i, p := range parts {
		at := slices.IndexFunc(lines(), func(l line) bool { return l.part == p.name() })
		seen := met[p.name()]
		met[p.name()] = true
		switch {
		case at < 0 && !seen:
			w.unknown(t, ask, p)
		case at >= 0 && lines()[at].world == w.kind && (*mutateAll || i%some == 0):
			w.hold(t, ask, p, parts, lines()[at])
		}
	}
}

// parts are the parts of the host's table, and those of each kind of bridge.
func (w *mutated) parts(t *testing.T) []part {
	t.Helper()
	families := []string{"inet"}
	if w.kind == respectWorld {
		families = []string{"inet", "ip", "ip6"}
	}
	var parts []part
	for _, family := range families {
		parts = append(parts, rulesetOf(t, w.node.Space, "", family, chainsOf(w.planned, plan.HostSandbox, family)).parts...)
	}
	for _, k := range kinds() {
		in := w.bridges[k.name]
		parts = append(parts, rulesetOf(t, in, k.name, "bridge", chainsOf(w.planned, filepath.Base(in.Path), "bridge")).parts...)
	}
	return parts
}

// hold tries what a line says of its part.
func (w *mutated) hold(t *testing.T, ask []trial, p part, all []part, l line) {
	t.Helper()
	some := w.named(t, ask, p, l.by)
	switch {
	case l.nobody != "":
		if *mutateAll {
			some = ask
		}
		if noticed := w.without(t, some, p); noticed != "" {
			t.Errorf("%s is said to be missed by nobody: %s", p.name(), noticed)
		}
	case l.behind != "":
		at := slices.IndexFunc(all, func(q part) bool {
			return q.name() == l.behind && (q.in.network == "" || p.in.network == "" && q.in.network == kinds()[0].name || q.in.network == p.in.network)
		})
		if at < 0 {
			t.Fatalf("%s stands behind %s, which no table has", p.name(), l.behind)
		}
		if noticed := w.without(t, some, p); noticed != "" {
			t.Errorf("%s is said to stand behind %s: without it alone %s", p.name(), l.behind, noticed)
		}
		if noticed := w.without(t, some, all[at]); noticed != "" {
			t.Errorf("%s is said to stand behind %s: without the latter alone %s", p.name(), l.behind, noticed)
		}
		w.each(t, some, p, all[at])
	default:
		w.each(t, some, p)
	}
}

// each wants every question to notice that parts are away.
func (w *mutated) each(t *testing.T, ask []trial, away ...part) {
	t.Helper()
	for _, q := range ask {
		if noticed := w.without(t, []trial{q}, away...); noticed == "" {
			t.Errorf("%q does not notice that this is missing: %s", q.name, away[0].name())
		} else {
			t.Logf("%s: without it %s", away[0].name(), noticed)
		}
	}
}

// named are the questions with these names. Those about bridges are asked on the part's own.
func (w *mutated) named(t *testing.T, ask []trial, p part, names []string) []trial {
	t.Helper()
	var some []trial
	for _, name := range names {
		if p.in.network != "" {
			name = p.in.network + ", " + name
		}
		at := slices.IndexFunc(ask, func(q trial) bool { return q.name == name })
		if at < 0 {
			t.Fatalf("the line of %s names no question: %s", p.name(), name)
		}
		some = append(some, ask[at])
	}
	w.whole(t, some)
	return some
}

// whole wants questions to be answered as they are where no part is missing.
func (w *mutated) whole(t *testing.T, ask []trial) {
	t.Helper()
	if err := w.node.ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	for _, q := range ask {
		w.forget()
		if got := q.ask(); got != q.want {
			t.Errorf("with all rules: %s: %s, want: %s", q.name, got, q.want)
		}
	}
}

// unknown looks for what belongs into the part's line: a question that sees a packet go
// another way, rather than its marker too.
func (w *mutated) unknown(t *testing.T, ask []trial, p part) {
	t.Helper()
	for rest := ask; ; {
		noticed := w.without(t, rest, p)
		if noticed == "" {
			t.Errorf("nothing notices that this is missing: %s", p.name())
			return
		}
		at := slices.IndexFunc(rest, func(q trial) bool { return strings.HasPrefix(noticed, q.name+": ") })
		if !strings.Contains(noticed, "no marker") || at+1 == len(rest) {
			t.Errorf("no line: {part: `%s`, by: []string{%q}}, // %s", p.name(), rest[at].name, noticed)
			return
		}
		rest = rest[at+1:]
	}
}

// without takes parts away, asks until something is noticed, and puts them back.
func (w *mutated) without(t *testing.T, ask []trial, away ...part) string {
	t.Helper()
	var sets []*ruleset
	for _, p := range away {
		p.away(t)
		if !slices.Contains(sets, p.in) {
			sets = append(sets, p.in)
		}
	}
	defer func() {
		for _, r := range sets {
			r.putBack(t)
		}
	}()
	if err := w.node.ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	for _, q := range ask {
		w.forget()
		if got := q.ask(); got != q.want {
			return q.name + ": " + got
		}
	}
	return ""
}
