package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// iptables' own tables are changed with iptables only: it refuses to read rules
// that it did not write. Each change is one transaction, by iptables-restore.

// iptablesWait is how long iptables may take, and wait for others to end.
const iptablesWait = 10 * time.Second

// filterTables are the iptables tables that can drop what is forwarded.
func filterTables() []string { return []string{"filter", "mangle", "security"} }

// program is the command of a tool for a family, as a person would name it.
func program(t tool, family string) string {
	name := string(t)
	if family == string(plan.IPv6) {
		name = strings.Replace(name, "iptables", "ip6tables", 1)
	}
	return name
}

// editIPTables makes the edits in one transaction.
func (n *namespace) editIPTables(ref tableRef, edits []edit) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", ref.Name)
	for _, e := range edits {
		if strings.ContainsAny(e.chain, " \t\n\"'\\") {
			return fmt.Errorf("change %s: iptables cannot write the name %q", ref, e.chain)
		}
		switch {
		case e.removed.ours != (plan.Passage{}):
			fmt.Fprintf(&b, "-D %s %s\n", e.chain, iptablesRule(e.removed.ours))
		case e.before != 0:
			fmt.Fprintf(&b, "-I %s %d %s\n", e.chain, e.index+1, iptablesRule(e.passage))
		default:
			fmt.Fprintf(&b, "-A %s %s\n", e.chain, iptablesRule(e.passage))
		}
	}
	b.WriteString("COMMIT\n")
	_, err := n.runIPTables(ref, "-restore", b.String(), "--noflush", "-w", "5")
	return err
}

func iptablesRule(p plan.Passage) string {
	return fmt.Sprintf("-%s %s -m comment --comment %s -j ACCEPT", letter(p.Direction), iptablesDevice(p.Device), passComment)
}

// iptablesDevice is a device's name as iptables writes it: all that begin so end in "+".
func iptablesDevice(device string) string {
	if begin, many := strings.CutSuffix(device, "*"); many {
		return begin + "+"
	}
	return device
}

// readLegacy lists the legacy tables that are loaded. Asking for one that is not
// would load it. Without the program nobody can tell what is in them.
func (n *namespace) readLegacy() ([]*foreignTable, error) {
	var tables []*foreignTable
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		loaded, err := n.legacyTables(family)
		if err != nil {
			return nil, err
		}
		for _, name := range filterTables() {
			if !slices.Contains(loaded, name) {
				continue
			}
			ref := tableRef{toolLegacy, string(family), name}
			text, err := n.runIPTables(ref, "", "", "-w", "5", "-t", name, "-S")
			if err != nil && !isMissing(err) {
				return nil, err
			}
			tables = append(tables, &foreignTable{tableRef: ref, unread: err, chains: parseIPTables(text)})
		}
	}
	return tables, nil
}

func (n *namespace) legacyTables(family plan.Family) (names []string, err error) {
	err = n.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/" + string(family) + "_tables_names")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		names = strings.Fields(string(text))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the legacy iptables tables: %w", err)
	}
	return names, nil
}

// runIPTables runs a program of the tool's family, restore or none after its name,
// in the namespace, and returns what it printed.
func (n *namespace) runIPTables(ref tableRef, suffix, stdin string, args ...string) (string, error) {
	name, err := findIPTables(ref, suffix)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), iptablesWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // as nft's, see runNFT
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = n.do(func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		n.own.add(cmd.Process.Pid)
		n.stages.reach("iptables started")
		return cmd.Wait()
	})
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", name, err, firstError(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// findIPTables finds the program that speaks to the tool's tables. Where only
// "iptables" is there, it may be for either.
func findIPTables(ref tableRef, suffix string) (string, error) {
	plain := program(toolIPTables, ref.Family)
	kind, says := "-nft", "nf_tables"
	if ref.Tool == toolLegacy {
		kind, says = "-legacy", "legacy"
	}
	if path, err := exec.LookPath(plain + kind + suffix); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(plain + suffix)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), iptablesWait)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, "-V").Output()
		if err == nil && strings.Contains(string(out), says) {
			return path, nil
		}
	}
	return "", &Refusal{
		plan.FeatureMissing, fmt.Sprintf("%s has rules, and there is no program %s to change or show them", ref, plain+kind),
		"install the package iptables, or remove the table",
	}
}

// incompatible tells whether iptables did not want the table because others wrote in it.
func incompatible(err error) bool {
	return err != nil && strings.Contains(err.Error(), "is incompatible, use 'nft' tool")
}

// parseIPTables reads what "iptables -S" prints of a table. What is not understood
// counts as asking for something.
func parseIPTables(text string) map[string]*foreignChain {
	chains := map[string]*foreignChain{}
	chain := func(name string) *foreignChain {
		if chains[name] == nil {
			chains[name] = &foreignChain{hook: builtinHook(name)}
		}
		return chains[name]
	}
	for line := range strings.Lines(text) {
		words := shellWords(line)
		if len(words) < 2 {
			continue
		}
		c := chain(words[1])
		switch words[0] {
		case "-P":
			c.drops = len(words) > 2 && words[2] == "DROP"
		case "-A":
			r := parseIPTablesRule(words[2:])
			r.handle = uint64(len(c.rules) + 1) // not zero: there is a rule
			c.rules = append(c.rules, r)
		}
	}
	return chains
}

func builtinHook(chain string) hook {
	switch chain {
	case "FORWARD":
		return hookForward
	case "INPUT":
		return hookInput
	default:
		return ""
	}
}

func parseIPTablesRule(words []string) foreignRule {
	var device, comment string
	var direction plan.Direction
	var r foreignRule
	next := func(i int) string {
		if i+1 < len(words) {
			return words[i+1]
		}
		return ""
	}
	for i := 0; i < len(words); i++ {
		switch word := words[i]; {
		case word == "-m" && next(i) == "comment":
			i++
		case word == "--comment":
			i++
			comment = words[min(i, len(words)-1)]
		case (word == "-i" || word == "-o") && device == "":
			device = next(i)
			direction = map[string]plan.Direction{"-i": plan.In, "-o": plan.Out}[word]
			i++
		case word == "-j", word == "-g":
			r.verdict, r.target = iptablesVerdict(word, next(i))
			i = len(words) // what follows belongs to the target
		default:
			return foreignRule{}
		}
	}
	if device == "" {
		return r
	}
	if begin, many := strings.CutSuffix(device, "+"); many {
		device = begin + "*"
	}
	return conditional(plan.Passage{Device: device, Direction: direction}, comment, r.verdict)
}

// conditional is a rule that asks for a device: ours, where it also is an accept
// with our comment for a device named as ours are.
func conditional(p plan.Passage, comment string, v verdict) foreignRule {
	if !strings.HasPrefix(p.Device, plan.HostLinks) || comment != passComment || v != accepts {
		return foreignRule{}
	}
	return foreignRule{ours: p}
}

func iptablesVerdict(word, target string) (verdict, string) {
	switch target {
	case "ACCEPT":
		return accepts, ""
	case "DROP", "REJECT":
		return drops, ""
	case "RETURN":
		return returns, ""
	}
	if word == "-g" {
		return goesTo, target
	}
	return jumps, target // LOG and the like are chains without rules
}

// shellWords splits a line that iptables printed: words with blanks are in double
// quotes, in which a backslash keeps the next character.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	quoted, escaped, begun := false, false, false
	for _, r := range strings.TrimSpace(line) {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quoted:
			escaped = true
		case r == '"':
			quoted, begun = !quoted, true
		case (r == ' ' || r == '\t') && !quoted:
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words
}
