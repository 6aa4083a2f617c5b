package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// part is one rule of a table of ours, all elements of one of its sets, or a chain's policy.
type part struct {
	in    ruleset
	kind  string // of nft: chain, set, map
	chain string // or the set's name
	text  string // what a person sees of it: a rule's text, elements or policy
}

// What a part is called that is no rule.
const (
	elements = "all elements"
	policy   = "policy drop"
)

// ruleset is a table as nft lists it, without its elements' and rules' numbers.
type ruleset struct {
	space         *space.Space
	network       string // whose bridge's it is; empty: the host's
	family, whole string
}

// name is the part's key in the table of lines.
func (p part) name() string {
	where := p.chain
	if p.kind != "chain" {
		where = p.kind + " " + p.chain
	}
	if p.in.network != "" {
		where = "bridge " + where
	}
	return where + ": " + p.text
}

// rulesetOf reads the table of ours in a namespace.
func rulesetOf(t *testing.T, in *space.Space, network, family string) ruleset {
	t.Helper()
	return ruleset{in, network, family, said(t, in, "nft", "-s", "list", "table", family, plan.TableName)}
}

// putBack loads the whole table anew, in one step.
func (r ruleset) putBack(t *testing.T) {
	t.Helper()
	script := fmt.Sprintf("delete table %s %s\n%s\n", r.family, plan.TableName, r.whole)
	said(t, r.space, "sh", "-ec", "nft -f - <<'EOF'\n"+script+"EOF\n")
}

// away takes the part out of the kernel. Rules are found by their place, as their numbers are
// others whenever the table is loaded anew.
func (p part) away(t *testing.T) {
	t.Helper()
	nft := func(args ...string) string {
		t.Helper()
		return said(t, p.in.space, append([]string{"nft"}, args...)...)
	}
	switch {
	case p.kind != "chain":
		nft("flush", p.kind, p.in.family, plan.TableName, p.chain)
		return
	case p.text == policy:
		nft("chain", p.in.family, plan.TableName, p.chain, "{ policy accept; }")
		return
	}
	handles := ruleOf.FindAllStringSubmatch(nft("-s", "-a", "list", "chain", p.in.family, plan.TableName, p.chain), -1)
	at := slices.IndexFunc(handles, func(h []string) bool { return h[1] == p.text })
	if at < 0 {
		t.Fatalf("chain %s has no rule %q any more", p.chain, p.text)
	}
	nft("delete", "rule", p.in.family, plan.TableName, p.chain, "handle", handles[at][2])
}

var (
	blockOf = regexp.MustCompile(`^\t(chain|set|map) (\S+) \{`)
	ruleOf  = regexp.MustCompile(`(?m)^\t\t(.*) # handle (\d+)$`)
)

// parts reads what nft lists. A set without elements is a part too: a table says of it why nobody
// misses them, or which other world has some. Chains that only say which rules were loaded hold none.
func (r ruleset) parts() []part {
	var parts []part
	var kind, name string
	for line := range strings.Lines(r.whole) {
		line = strings.TrimRight(line, "\n")
		rest, inside := strings.CutPrefix(line, "\t\t")
		switch found := blockOf.FindStringSubmatch(line); {
		case found != nil:
			if kind, name = found[1], found[2]; kind != "chain" {
				parts = append(parts, part{r, kind, name, elements})
			}
		case !inside || kind != "chain":
		case strings.HasPrefix(rest, "type ") && strings.Contains(rest, " hook "):
			if strings.Contains(rest, policy) {
				parts = append(parts, part{r, kind, name, policy})
			}
		default:
			parts = append(parts, part{r, kind, name, rest})
		}
	}
	return parts
}
