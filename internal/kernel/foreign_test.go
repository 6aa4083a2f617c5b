package kernel

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/plan"
)

func wanted() []plan.Passage {
	return []plan.Passage{{Device: "sl-ingress", Direction: plan.In}, {Device: "sl-o*", Direction: plan.Out}, {Device: "sl-b*", Direction: plan.Out}}
}

// Where in other programs' rules ours come to stand; "" for nowhere.
func TestPlaces(t *testing.T) {
	const ours = "-A FORWARD -i sl-ingress -m comment --comment sluice -j ACCEPT\n-A FORWARD -o sl-o+ -m comment --comment sluice -j ACCEPT\n-A FORWARD -o sl-b+ -m comment --comment sluice -j ACCEPT\n"
	for _, c := range []struct{ name, rules, want string }{
		{"lets through", "-P FORWARD ACCEPT\n-A FORWARD -s 10.0.0.0/8 -j DROP", ""},
		{"policy", "-P FORWARD DROP", "FORWARD 0"},
		{"policy, rules of others", "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n-A FORWARD -s 10.0.0.0/8 -j DROP\n-N DOCKER-USER\n-A DOCKER-USER -j RETURN", "FORWARD 2"},
		{"drops all", "-P FORWARD ACCEPT\n-A FORWARD -i lo -j ACCEPT\n-A FORWARD -j DROP\n-A FORWARD -j LOG", "FORWARD 1"},
		{"rejects all", `-P FORWARD ACCEPT
-A FORWARD -m comment --comment "all \"others\"" -j REJECT --reject-with icmp-port-unreachable`, "FORWARD 0"},
		{"accepts all before", "-P FORWARD DROP\n-A FORWARD -j ACCEPT\n-A FORWARD -j DROP", ""},
		{"drops in a chain", "-P FORWARD DROP\n-N rest\n-A FORWARD -i lo -j rest\n-A FORWARD -j rest\n-A rest -d 10.0.0.1/32 -j ACCEPT\n-A rest -j DROP", "rest 1"},
		{"only some go to a chain", "-P FORWARD ACCEPT\n-N rest\n-A FORWARD -i lo -j rest\n-A rest -j DROP", ""},
		{"goto leaves", "-P FORWARD DROP\n-N rest\n-A FORWARD -g rest\n-A FORWARD -j ACCEPT", "FORWARD 2"},
		{"logs first", "-P FORWARD DROP\n-A FORWARD -j LOG --log-prefix \"no \"", "FORWARD 1"},
		{"jumps in a circle", "-P FORWARD DROP\n-N a\n-N b\n-A FORWARD -j a\n-A a -j b\n-A b -j a", "FORWARD 1"},
		{"ours are there", "-P FORWARD DROP\n" + ours, "FORWARD 3"},
		{"input alone", "-P INPUT DROP\n-P FORWARD ACCEPT", ""},
	} {
		table := &foreignTable{chains: parseIPTables(c.rules)}
		var got []string
		for _, p := range table.places(hookForward) {
			got = append(got, p.chain+" "+string(rune('0'+p.index)))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: places %q, want %q", c.name, got, c.want)
		}
		carried(t, c.name, table)
	}
}

// carried makes the edits, after which there are no more, and takes ours out again.
func carried(t *testing.T, name string, table *foreignTable) {
	t.Helper()
	before := strangers(table)
	for _, want := range [][]plan.Passage{wanted(), {{Device: "sl-ingress", Direction: plan.Out}}, wanted(), nil} {
		for _, e := range table.edits(want) {
			table.carry(e)
		}
		if again := table.edits(want); len(again) > 0 {
			t.Errorf("%s: still to do for %v: %v", name, want, again)
		}
		if diff := cmp.Diff(before, strangers(table)); diff != "" {
			t.Errorf("%s: others' rules changed (-before +after):\n%s", name, diff)
		}
	}
	if held := table.chainsOfOurs(); len(held) > 0 {
		t.Errorf("%s: ours are left in %v", name, held)
	}
}

// strangers are the verdicts of all rules that are not ours.
func strangers(table *foreignTable) map[string][]verdict {
	all := map[string][]verdict{}
	for name, c := range table.chains {
		for _, r := range c.rules {
			if r.ours == (plan.Passage{}) {
				all[name] = append(all[name], r.verdict)
			}
		}
	}
	return all
}

// A rule that somebody appends behind ours is asked before them after the next round.
func TestPlaceMoves(t *testing.T) {
	table := &foreignTable{chains: parseIPTables("-P FORWARD DROP\n")}
	for _, e := range table.edits(wanted()) {
		table.carry(e)
	}
	c := table.chains["FORWARD"]
	c.rules = append(c.rules, foreignRule{}) // it asks for something
	for _, e := range table.edits(wanted()) {
		table.carry(e)
	}
	if len(c.rules) != 1+len(wanted()) || c.rules[0].ours != (plan.Passage{}) {
		t.Errorf("rules %v, want the appended one first", c.rules)
	}
}

// Only an accept with our comment for a device named as ours are is ours.
func TestOurRuleInIPTables(t *testing.T) {
	for line, want := range map[string]plan.Passage{
		"-A FORWARD -i sl-ingress -m comment --comment sluice -j ACCEPT":               {Device: "sl-ingress", Direction: plan.In},
		"-A FORWARD -o sl-o+ -m comment --comment sluice -j ACCEPT":                    {Device: "sl-o*", Direction: plan.Out},
		`-A FORWARD -o sl-o+ -m comment --comment "sluice" -j ACCEPT`:                  {Device: "sl-o*", Direction: plan.Out},
		"-A FORWARD -i sl-b+ -m comment --comment sluice -j ACCEPT":                    {Device: "sl-b*", Direction: plan.In},
		"-A FORWARD -o eth0 -m comment --comment sluice -j ACCEPT":                     {},
		"-A FORWARD -o sl-o+ -j ACCEPT":                                                {},
		"-A FORWARD -o sl-o+ -m comment --comment sluice -j DROP":                      {},
		"-A FORWARD ! -o sl-o+ -m comment --comment sluice -j ACCEPT":                  {},
		"-A FORWARD -i lo -o sl-o+ -m comment --comment sluice -j ACCEPT":              {},
		"-A FORWARD -p tcp -o sl-o+ -m comment --comment sluice -j ACCEPT":             {},
		`-A FORWARD -o sl-o+ -m comment --comment "sluice of the village" -j ACCEPT`:   {},
		"-A FORWARD -o sl-o+ -m comment --comment sluice -m limit --limit 1 -j ACCEPT": {},
	} {
		if got := parseIPTables(line)["FORWARD"].rules[0]; got.ours != want || got.verdict != goesOn {
			t.Errorf("%s: ours %v, verdict %q, want %v", line, got.ours, got.verdict, want)
		}
	}
}

// Whatever is printed, reading ends, and so do the edits for it.
func FuzzIPTables(f *testing.F) {
	f.Add("-P FORWARD DROP\n-N a\n-A FORWARD -g a\n-A a -m comment --comment \"x \\\" y\" -j FORWARD\n")
	f.Add("-A FORWARD -i sl-o+ -m comment --comment sluice -j ACCEPT\n-A FORWARD -j REJECT\n-P FORWARD")
	f.Fuzz(func(t *testing.T, text string) {
		carried(t, text, &foreignTable{chains: parseIPTables(text)})
	})
}

func TestShellWords(t *testing.T) {
	got := shellWords(`-A a -m comment --comment "two  \"words\" \\" "" -j b` + "\n")
	want := []string{"-A", "a", "-m", "comment", "--comment", `two  "words" \`, "", "-j", "b"}
	if !slices.Equal(got, want) {
		t.Errorf("words %q, want %q", got, want)
	}
}

func TestNFTNames(t *testing.T) {
	for name, want := range map[string]bool{"filter": true, "filter-FORWARD__docker0": true, "": false, "a b": false, "9a": false, "a;b": false} {
		if isNFTName(name) != want {
			t.Errorf("%q is a name: %v, want %v", name, !want, want)
		}
	}
}

func TestDiffUser(t *testing.T) {
	user := plan.User{Base: "type filter hook forward priority filter - 10; policy accept;"}
	const empty, kept = "add host: user     chain inet sluice-user user", " with the rules that it had"
	for _, c := range []struct {
		name  string
		want  plan.User
		have  userState
		begin string // of the one op; "" for none
		end   string
	}{
		{"first round", user, userState{}, empty, "}"},
		{"there", user, userState{table: true, chain: true, own: true}, "", ""},
		{"there without the chain", user, userState{table: true, own: true, kept: true}, empty, "}"},
		{"all flushed", user, userState{kept: true}, empty, kept},
		{"taken alone", user, userState{kept: true, own: true}, empty, "}"},
		{"owed", user, userState{kept: true, own: true, owed: true}, empty, kept},
		{"owed and made by hand", user, userState{table: true, chain: true, kept: true, own: true, owed: true}, "", ""},
		{"left with rules", plan.User{}, userState{table: true, chain: true}, "", ""},
		{"left without", plan.User{}, userState{table: true, chain: true, bare: true}, "delete host: ", ""},
		{"never there", plan.User{}, userState{kept: true}, "", ""},
	} {
		ops := diffUser(&plan.Sandbox{Name: "host", User: c.want}, c.have)
		if c.begin == "" {
			if len(ops) > 0 {
				t.Errorf("%s: %v, want nothing", c.name, ops)
			}
			continue
		}
		if len(ops) != 1 || !strings.HasPrefix(ops[0].String(), c.begin) || !strings.HasSuffix(ops[0].String(), c.end) {
			t.Errorf("%s: %v, want %s...%s", c.name, ops, c.begin, c.end)
		}
	}
}

// Whatever a program keeps beside its rules, reading it ends.
func FuzzUserComment(f *testing.F) {
	f.Add([]byte("\x00\x07sluice\x00"))
	f.Add([]byte{1, 200, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if c := userComment(data); len(c) > len(data) {
			t.Errorf("comment %q out of %q", c, data)
		}
	})
}
