package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Every table of the golden plans is what nft takes, and comes back from a
// kernel equal: loaded whole, and loaded empty with its elements sent after it.
func TestGoldenTables(t *testing.T) {
	files, err := filepath.Glob("../../agent/testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden plans:", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range parseTables(t, string(text)) {
			if len(s.Tables) == 0 {
				continue
			}
			name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "TestCompileGolden_"), ".golden")
			t.Run(name+"/"+s.Name, func(t *testing.T) { checkTables(t, s) })
		}
	}
}

func checkTables(t *testing.T, s *plan.Sandbox) {
	t.Helper()
	byProgram, whole, bySteps := testNamespace(t), testNamespace(t), testNamespace(t)
	for _, n := range []*namespace{byProgram, whole, bySteps} {
		for _, l := range s.Links {
			addDevice(t, n, l.Name)
		}
	}
	if s.Lock != nil {
		nftProgram(t, byProgram, s.Lock.Ruleset(), "--check", "-f", "-")
	}
	var empty []*plan.Table
	for _, table := range s.Tables {
		nftProgram(t, byProgram, table.Ruleset(), "--check", "-f", "-")
		nftProgram(t, byProgram, loadText(table, byProgram.deviceStamp(table)), "-f", "-")
		empty = append(empty, table.Bare())
	}
	bring(t, whole, s.Tables...)
	expect(t, bring(t, whole, s.Tables...))
	bring(t, bySteps, empty...)
	for _, op := range bring(t, bySteps, s.Tables...) {
		if !strings.HasPrefix(op, "replace s: nft elements") {
			t.Errorf("rules were loaded again: %s", op)
		}
	}
	expect(t, bring(t, bySteps, s.Tables...))

	for _, table := range s.Tables { // the same rules have the same sum, however they were loaded
		if err := byProgram.markRules(table.Family); err != nil {
			t.Fatal(err)
		}
	}
	want := nftProgram(t, byProgram, "", "-s", "list", "ruleset")
	if got := strings.Count(want, "table "); got != len(s.Tables) {
		t.Fatalf("nft lists %d tables of %d", got, len(s.Tables))
	}
	for how, n := range map[string]*namespace{"whole": whole, "in steps": bySteps} {
		if diff := cmp.Diff(sorted(want), sorted(nftProgram(t, n, "", "-s", "list", "ruleset"))); diff != "" {
			t.Errorf("loaded %s, nft lists (-as nft loads it, +as we did):\n%s", how, diff)
		}
	}
}

// sorted is a listing with the elements of each set in one order: the kernel
// lists them in that of its hash, which has another seed in every set.
func sorted(listing string) []string {
	const open = "elements = { "
	var out, elements []string
	inside := false
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		list, opens := strings.CutPrefix(line, open)
		if inside = inside || opens; !inside {
			out = append(out, line)
			continue
		}
		list, closes := strings.CutSuffix(list, " }")
		for e := range strings.SplitSeq(list, ",") {
			if e = strings.TrimSpace(e); e != "" {
				elements = append(elements, e)
			}
		}
		if closes {
			slices.Sort(elements)
			out = append(out, elements...)
			elements, inside = nil, false
		}
	}
	return out
}

// parseTables reads the tables back out of a plan's text, and a sandbox's
// devices. That it read all is checked by writing them again.
func parseTables(t *testing.T, text string) []*plan.Sandbox {
	t.Helper()
	var p plan.Plan
	var s *plan.Sandbox
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "sandbox "):
			s = p.Sandbox(words[1], plan.Kind(strings.Trim(words[2], "()")))
			kept = append(kept, line)
		case strings.HasPrefix(line, "  link "):
			s.Links = append(s.Links, plan.Link{Name: words[1]})
		case strings.HasPrefix(line, "  nft ") || strings.HasPrefix(line, "    "):
			parseNFT(t, s, line)
			kept = append(kept, line)
		}
	}
	again := plan.Plan{}
	for _, s := range p.Sandboxes {
		again.Sandboxes = append(again.Sandboxes, &plan.Sandbox{Name: s.Name, Kind: s.Kind, Tables: s.Tables, Lock: s.Lock})
	}
	if diff := cmp.Diff(strings.Join(kept, "\n")+"\n", again.Text()); diff != "" {
		t.Fatal("the plan's tables were not read whole:", diff)
	}
	return p.Sandboxes
}

func parseNFT(t *testing.T, s *plan.Sandbox, line string) {
	t.Helper()
	body := strings.TrimSpace(line)
	depth := len(line) - len(body)
	word, rest, _ := strings.Cut(body, " ")
	switch {
	case depth == 2 && strings.HasSuffix(rest, " "+plan.LockTable):
		s.MakeLock()
	case depth == 2:
		s.Table(strings.Fields(rest)[1])
	case depth == 4 && word == "chain":
		name, base, _ := strings.Cut(rest, " { ")
		lastTable(s).Chain(name, strings.TrimSuffix(base, " }"))
	case depth == 4:
		parseSet(t, lastTable(s), rest)
	case len(lastTable(s).Chains) > 0:
		chains := lastTable(s).Chains
		chains[len(chains)-1].Rule(body)
	default:
		sets := lastTable(s).Sets
		key, value, _ := strings.Cut(body, " -> ")
		sets[len(sets)-1].Elements = append(sets[len(sets)-1].Elements, plan.Element{Key: key, Value: value})
	}
}

func lastTable(s *plan.Sandbox) *plan.Table {
	all := s.AllTables()
	return all[len(all)-1]
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseSet reads "NAME { type KEY : VALUE; }", where it learns "NAME { type KEY : VALUE; size LIMIT; flags
// dynamic,timeout; timeout TIME; }", the last only where its elements have one of their own,
// and with ranges "NAME { type KEY : VALUE; flags interval; }".
func parseSet(t *testing.T, table *plan.Table, text string) {
	t.Helper()
	name, declared, _ := strings.Cut(text, " { ")
	declared, expires, _ := strings.Cut(strings.TrimSuffix(declared, "; }"), "; timeout ")
	declared, ranges := strings.CutSuffix(declared, "; flags interval")
	declared, learns := strings.CutSuffix(declared, "; flags dynamic,timeout")
	declared, limit, _ := strings.Cut(declared, "; size ")
	_, types, _ := strings.Cut(declared, " ")
	key, value, isMap := strings.Cut(types, " : ")
	set := table.Set(name, parseFields(t, key)...)
	if expires != "" {
		var err error
		if set.Expires, err = time.ParseDuration(expires); err != nil {
			t.Fatal(err)
		}
	}
	if isMap {
		set.Value = parseFields(t, value)
	}
	set.Ranges = ranges
	if learns {
		set.Learned = number(t, limit)
	}
}

func parseFields(t *testing.T, text string) []plan.Field {
	t.Helper()
	var fields []plan.Field
	for part := range strings.SplitSeq(text, " . ") {
		switch part {
		case "ct original zone":
			fields = append(fields, plan.FieldZone)
		case "ether saddr":
			fields = append(fields, plan.FieldMAC)
		case "@nh,64,32":
			fields = append(fields, plan.FieldWord)
		case "iifname":
			fields = append(fields, plan.FieldIface)
		case "@th,64,128":
			fields = append(fields, plan.FieldTarget)
		case "meta mark":
			fields = append(fields, plan.FieldMark)
		default:
			if _, err := codecOf(plan.Field(part)); err != nil {
				t.Fatal(fmt.Errorf("golden plan has type %q: %w", part, err))
			}
			fields = append(fields, plan.Field(part))
		}
	}
	return fields
}
