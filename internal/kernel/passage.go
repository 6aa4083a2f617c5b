package kernel

import (
	"fmt"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// ForeignFirewall is the reason of a failure where another program's firewall drops
// what we forward and does not let anybody change that.
const ForeignFirewall plan.Reason = "ForeignFirewall"

// Pass is our accepts in another program's table: those for the plan's passages.
// With Delete none are to be there.
type Pass struct {
	table    tableRef
	chains   []string // where they stand, or will
	passages []plan.Passage
}

// String names table and chains as the program that they belong to does.
func (p Pass) String() string {
	text := "passage  in " + p.table.String() + " " + strings.Join(p.chains, ", ")
	if len(p.passages) == 0 {
		return text
	}
	through := make([]string, len(p.passages))
	for i, w := range p.passages {
		through[i] = fmt.Sprintf("%s by %s", w.Direction, w.Device)
	}
	return text + ": " + strings.Join(through, ", ")
}

func (r tableRef) String() string {
	switch r.Tool {
	case toolNFT:
		return "nft table " + r.Family + " " + r.Name
	default:
		return program(r.Tool, r.Family) + " table " + r.Name
	}
}

// passComment marks our rules in others' chains.
const passComment = "sluice"

// observeForeign is readForeign. Where nothing is wanted and there is no nft,
// nothing of ours is there.
func (n *namespace) observeForeign(want []plan.Passage) ([]*foreignTable, error) {
	tables, err := n.readForeign()
	if err != nil && len(want) == 0 && isMissing(err) {
		return nil, nil
	}
	return tables, err
}

// diffPassages says in which of the other programs' tables our accepts are
// missing, wrong, or no longer needed.
func diffPassages(sandbox string, want []plan.Passage, have []*foreignTable) []Op {
	var ops []Op
	for _, t := range have {
		if t.unread != nil && len(want) > 0 {
			ops = append(ops, Op{Add, sandbox, Pass{t.tableRef, []string{"FORWARD"}, want}})
			continue
		}
		if len(t.edits(want)) == 0 {
			continue
		}
		pass := Pass{table: t.tableRef, passages: want}
		for _, p := range t.places(hookForward) {
			pass.chains = append(pass.chains, p.chain)
		}
		held := t.chainsOfOurs()
		switch {
		case len(held) == 0:
			ops = append(ops, Op{Add, sandbox, pass})
		case len(want) == 0 || len(pass.chains) == 0:
			ops = append(ops, Op{Delete, sandbox, Pass{table: t.tableRef, chains: held}})
		default:
			ops = append(ops, Op{Replace, sandbox, pass})
		}
	}
	return ops
}

// doPass looks again before it changes anything: positions are numbers, and
// somebody else works on the same chains. A table that is gone needs nothing.
func (n *namespace) doPass(verb Verb, pass Pass) error {
	tables, err := n.readForeign()
	if err != nil {
		return err
	}
	want := pass.passages
	if verb == Delete {
		want = nil
	}
	for _, t := range tables {
		if t.tableRef != pass.table {
			continue
		}
		if t.unread != nil {
			return t.unread
		}
		edits := t.edits(want)
		if len(edits) == 0 {
			return nil
		}
		if t.owned {
			return &Refusal{
				ForeignFirewall, fmt.Sprintf("%s drops what is forwarded, and only the program that owns it may change it", t.tableRef),
				"let that program accept what comes in or goes out by sl-ingress, sl-b* and sl-o*, or give up the ownership (firewalld: NftablesTableOwner=no)",
			}
		}
		return n.doEdits(t.tableRef, edits)
	}
	return nil
}

func (n *namespace) doEdits(ref tableRef, edits []edit) error {
	if ref.Tool == toolNFT {
		return n.editNative(ref, edits)
	}
	if ref.Tool == toolIPTables {
		// A table of iptables' name with rules that iptables cannot read: nft made them.
		// Listing is what tells; iptables-restore would write into it all the same.
		_, err := n.runIPTables(ref, "", "", "-t", ref.Name, "-S")
		if incompatible(err) {
			return n.editNative(ref, edits)
		}
		if err != nil {
			return err
		}
	}
	return n.editIPTables(ref, edits)
}

func (n *namespace) editNative(ref tableRef, edits []edit) error {
	text, err := nativeText(ref, edits)
	if err != nil {
		return err
	}
	if err := n.do(func() error { return n.runNFT(text) }); err != nil {
		return fmt.Errorf("change %s: %w", ref, err)
	}
	return nil
}

// nativeText is the edits as one transaction for nft.
func nativeText(ref tableRef, edits []edit) (string, error) {
	var b strings.Builder
	for _, e := range edits {
		for _, name := range []string{ref.Name, e.chain} {
			if !isNFTName(name) {
				return "", fmt.Errorf("change %s: nft cannot write the name %q", ref, name)
			}
		}
		chain := fmt.Sprintf("%s %s %s", ref.Family, ref.Name, e.chain)
		switch {
		case e.removed.ours != (plan.Passage{}):
			fmt.Fprintf(&b, "delete rule %s handle %d\n", chain, e.removed.handle)
		case e.before != 0:
			fmt.Fprintf(&b, "insert rule %s handle %d %s\n", chain, e.before, nativeRule(e.passage))
		default:
			fmt.Fprintf(&b, "add rule %s %s\n", chain, nativeRule(e.passage))
		}
	}
	return b.String(), nil
}

func nativeRule(p plan.Passage) string {
	return fmt.Sprintf(`%sifname "%s" counter accept comment "%s"`, letter(p.Direction), p.Device, passComment)
}

// letter begins the names of a direction: iifname, oifname; -i, -o.
func letter(d plan.Direction) string {
	if d == plan.In {
		return "i"
	}
	return "o"
}

// isNFTName tells whether nft's language has the word: other programs give names
// by netlink, which knows no language.
func isNFTName(name string) bool {
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '_', r == '.':
		case i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '/'):
		default:
			return false
		}
	}
	return name != ""
}
