package e2e

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

var mutateAll = flag.Bool("mutate", false, "take every rule of the host away, one after the other (make mutate)")

// part is one rule of a table of ours, or all elements of one of its sets.
type part struct {
	table string // as nft calls it: "inet sluice"
	chain string // or the set's name
	text  string // what a person sees of it
	at    int    // which rule of the chain it is; sets: -1
	kind  string // of nft: chain, set, map
}

// away takes it out of the kernel. Rules are found by their place, as their numbers are
// others whenever the table is loaded anew.
func (p part) away(t *testing.T, in *space.Space) {
	t.Helper()
	if p.at < 0 {
		said(t, in, slices.Concat([]string{"nft", "flush", p.kind}, strings.Fields(p.table), []string{p.chain})...)
		return
	}
	handles := ruleOf.FindAllStringSubmatch(said(t, in, slices.Concat([]string{"nft", "-s", "-a", "list", "chain"}, strings.Fields(p.table), []string{p.chain})...), -1)
	if p.at >= len(handles) || handles[p.at][1] != p.text {
		t.Fatalf("rule %d of chain %s is no longer %q", p.at, p.chain, p.text)
	}
	said(t, in, slices.Concat([]string{"nft", "delete", "rule"}, strings.Fields(p.table), []string{p.chain, "handle", handles[p.at][2]})...)
}

// TestMutate takes each part of the host's rules away while no agent runs: some cell
// of the matrix notices. Without -mutate it takes one away, to see that it would.
func TestMutate(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	b := startBase(t, 1)
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	if err := b.node.KillAgent(); err != nil { // one that only stands still holds the host locked
		t.Fatal(err)
	}
	defer func() {
		if err := b.node.RestartAgent(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	const table = "inet " + plan.TableName
	whole := said(t, b.node.Space, "nft", "-s", "list", "table", "inet", plan.TableName)
	parts := partsOf(table, whole)
	if !*mutateAll {
		parts = slices.DeleteFunc(parts, func(p part) bool { return p.chain != "hosted4" })
	}
	if len(parts) == 0 {
		t.Fatalf("the host's table has nothing to take away:\n%s", whole)
	}
	var rows []string
	for _, p := range parts {
		p.away(t, b.node.Space)
		noticed := b.notice(t, p)
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |", p.chain, strings.ReplaceAll(p.text, "|", "¦"), noticed))
		if noticed == "" {
			t.Errorf("no cell notices that this is missing: %s: %s", p.chain, p.text)
		}
		b.putBack(t, whole)
	}
	t.Logf("\n| where | without | notices |\n|---|---|---|\n%s", strings.Join(rows, "\n"))
}

// notice is the first cell that is wrong; those that the part is about are tried first.
func (b *base) notice(t *testing.T, p part) string {
	t.Helper()
	if err := b.node.ForgetFlows(); err != nil {
		t.Fatal(err)
	}
	cells := matrix.Cells()
	about := modelOf(p)
	slices.SortStableFunc(cells, func(x, y matrix.Cell) int { return rank(y, about) - rank(x, about) })
	for _, c := range cells {
		if got := b.try(c); got != b.expected(c) {
			return c.Name() + ": " + got
		}
	}
	return ""
}

// rank is how many of the model's lines a cell is about.
func rank(c matrix.Cell, about []string) int {
	n := 0
	for _, line := range about {
		if strings.Contains(c.Model, line) {
			n++
		}
	}
	return n
}

// modelOf are the lines of the model that a part may be there for, by what it says.
func modelOf(p part) []string {
	var lines []string
	for word, line := range map[string]string{
		"bridged": "1.3", "routed": "1.3", "127.0.0": "1.4", "hosted": "1.4", "output": "1.5", "loopback": "1.5", "lo": "1.5",
		"masquerade": "1.6", "leaving": "1.7", "together": "1.8", "internal": "1.9",
	} {
		if strings.Contains(p.chain+" "+p.text, word) {
			lines = append(lines, line)
		}
	}
	return lines
}

// putBack loads the whole table anew, in one step.
func (b *base) putBack(t *testing.T, whole string) {
	t.Helper()
	script := fmt.Sprintf("delete table inet %s\n%s\n", plan.TableName, whole)
	said(t, b.node.Space, "sh", "-ec", "nft -f - <<'EOF'\n"+script+"EOF\n")
	time.Sleep(10 * time.Millisecond)
}

var (
	blockOf = regexp.MustCompile(`^\t(chain|set|map) (\S+) \{`)
	ruleOf  = regexp.MustCompile(`(?m)^\t\t(.*) # handle (\d+)$`)
)

// partsOf reads what nft lists. What is no rule and no set is passed over.
func partsOf(table, listed string) []part {
	var parts []part
	var kind, name string
	at := 0
	for line := range strings.Lines(listed) {
		line = strings.TrimRight(line, "\n")
		rest, inside := strings.CutPrefix(line, "\t\t")
		switch found := blockOf.FindStringSubmatch(line); {
		case found != nil:
			kind, name, at = found[1], found[2], 0
		case !inside || strings.HasPrefix(rest, "type ") && strings.Contains(rest, " hook "):
		case kind == "chain":
			parts = append(parts, part{table, name, rest, at, kind})
			at++
		case strings.HasPrefix(rest, "elements = {"):
			parts = append(parts, part{table, name, "all elements", -1, kind})
		}
	}
	return parts
}
