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
	in    *ruleset
	kind  string // of nft: chain, set, map
	chain string // or the set's name
	text  string // what a person sees of it: a rule's text in the plan, elements or policy
	shown string // a rule as nft shows it
}

// What a part is called that is no rule.
const (
	elements = "all elements"
	policy   = "policy drop"
)

// ruleset is a table of ours.
type ruleset struct {
	space   *space.Space
	network string // whose bridge's it is; empty: the host's
	family  string
	whole   string // as it is loaded
	parts   []part
}

// name is the part's key in the table of lines.
func (p part) name() string {
	where := p.chain
	if p.kind != "chain" {
		where = p.kind + " " + p.chain
	}
	switch {
	case p.in.network != "":
		where = "bridge " + where
	case p.in.family != "inet":
		where = p.in.family + " " + where
	}
	return where + ": " + p.text
}

// putBack loads the whole table anew, in one step.
func (r *ruleset) putBack(t *testing.T) {
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
	at := slices.IndexFunc(handles, func(h []string) bool { return h[1] == p.shown })
	if at < 0 {
		t.Fatalf("chain %s has no rule %q any more", p.chain, p.shown)
	}
	nft("delete", "rule", p.in.family, plan.TableName, p.chain, "handle", handles[at][2])
}

var (
	blockOf = regexp.MustCompile(`^\t(chain|set|map) (\S+) \{`)
	ruleOf  = regexp.MustCompile(`(?m)^\t\t(.*) # handle (\d+)$`)
)

// rulesetOf reads the table of ours in a namespace, with the rules as the plan has them: nft leaves out
// of some what it thinks goes without saying, and loads them with another meaning.
//
// A set without elements is a part too: its line says why nobody misses them, or which other world
// has some. Chains that only say which rules were loaded hold none.
func rulesetOf(t *testing.T, in *space.Space, network, family string, planned map[string][]string) *ruleset {
	t.Helper()
	r := &ruleset{space: in, network: network, family: family}
	var loaded strings.Builder
	var kind, name string
	for line := range strings.Lines(said(t, in, "nft", "-s", "list", "table", family, plan.TableName)) {
		line = strings.TrimRight(line, "\n")
		rest, inside := strings.CutPrefix(line, "\t\t")
		switch found := blockOf.FindStringSubmatch(line); {
		case found != nil:
			if kind, name = found[1], found[2]; kind != "chain" {
				r.parts = append(r.parts, part{in: r, kind: kind, chain: name, text: elements})
			}
		case !inside || kind != "chain":
		case strings.HasPrefix(rest, "type ") && strings.Contains(rest, " hook "):
			if strings.Contains(rest, policy) {
				r.parts = append(r.parts, part{in: r, kind: kind, chain: name, text: policy})
			}
		default:
			if len(planned[name]) == 0 {
				t.Fatalf("the plan's chain %s ends before %q", name, rest)
			}
			r.parts = append(r.parts, part{r, kind, name, planned[name][0], rest})
			line = "\t\t" + planned[name][0]
			planned[name] = planned[name][1:]
		}
		loaded.WriteString(line + "\n")
	}
	r.whole = loaded.String()
	return r
}

// chainsOf are the rules of a sandbox's table in what "sluice plan" prints, by chain.
func chainsOf(printed, sandbox, family string) map[string][]string {
	chains := map[string][]string{}
	var here, ours bool
	var chain string
	for line := range strings.Lines(printed) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, "sandbox "); ok {
			here, ours, chain = strings.HasPrefix(name, sandbox+" "), false, ""
		}
		rule, deep := strings.CutPrefix(line, "      ")
		switch f := strings.Fields(line); {
		case len(f) > 3 && f[0] == "nft" && f[1] == "table":
			ours, chain = here && f[2] == family && f[3] == plan.TableName, ""
		case deep && ours && chain != "":
			chains[chain] = append(chains[chain], rule)
		case !deep && len(f) > 1 && f[0] == "chain":
			chain = f[1]
		case !deep:
			chain = ""
		}
	}
	return chains
}
