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
	"github.com/sluice-mesh/sluice/internal/plan"
)

var mutateAll = flag.Bool("mutate", false, "take every rule of the host away, one after the other (make mutate)")

// part is one rule of the host's table, or all elements of one of its sets.
type part struct {
	chain string   // or the set's name
	text  string   // what a person sees of it
	away  []string // the command that takes it away
}

// TestMutate takes each part of the host's rules away while the agent stands still: some cell
// of the matrix notices. Without -mutate it takes one away, to see that it would.
func TestMutate(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	b := startBase(t, 1)
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Resume(); err != nil {
			t.Error(err)
		}
	}()
	whole := said(t, b.node.Space, "nft", "list", "table", "inet", plan.TableName)
	parts := partsOf(said(t, b.node.Space, "nft", "-a", "list", "table", "inet", plan.TableName))
	if !*mutateAll {
		parts = slices.DeleteFunc(parts, func(p part) bool { return p.chain != "hosted4" })
	}
	if len(parts) == 0 {
		t.Fatalf("the host's table has nothing to take away:\n%s", whole)
	}
	var rows []string
	for _, p := range parts {
		said(t, b.node.Space, p.away...)
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

// partsOf reads what nft lists with handles. What is no rule and no set is passed over, and so
// are the rules that count or describe but decide nothing.
func partsOf(listed string) []part {
	block := regexp.MustCompile(`^\t(chain|set|map) (\S+) \{`)
	rule := regexp.MustCompile(`^\t\t(.*) # handle (\d+)$`)
	var parts []part
	var kind, name string
	for line := range strings.Lines(listed) {
		line = strings.TrimRight(line, "\n")
		if found := block.FindStringSubmatch(line); found != nil {
			kind, name = found[1], found[2]
			continue
		}
		found := rule.FindStringSubmatch(line)
		switch {
		case kind == "chain" && found != nil:
			parts = append(parts, part{name, found[1], []string{"nft", "delete", "rule", "inet", plan.TableName, name, "handle", found[2]}})
		case kind != "chain" && kind != "" && strings.HasPrefix(line, "\t\telements = {"):
			parts = append(parts, part{name, "all elements", []string{"nft", "flush", kind, "inet", plan.TableName, name}})
		}
	}
	return parts
}
