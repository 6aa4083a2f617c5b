package kernel_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
)

func openKernel(t *testing.T, dir string) *kernel.Kernel {
	t.Helper()
	k, err := kernel.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// other is another program's firewall. Each command is for the shell.
type other struct {
	name    string
	need    []feature.Feature
	deny    string // makes it drop what is forwarded, with rules of its own besides
	list    string // its own ruleset, as text
	accepts string // prints the rules of ours, or nothing
	before  string // what stands behind them, if anything
	allow   string // it drops no longer
}

func others() []other {
	iptables := func(name, program, list string) other {
		return other{
			name: name,
			deny: program + ` -N OWNER; ` + program + ` -A FORWARD -j OWNER; ` + program + ` -A OWNER -s 10.9.9.9 -j DROP; ` + program + ` -P FORWARD DROP`,
			list: list, accepts: program + ` -S FORWARD | grep sluice || :`, allow: program + " -P FORWARD ACCEPT",
		}
	}
	nft, nft6 := iptables("iptables", "iptables-nft", "iptables-nft -S"), iptables("ip6tables", "ip6tables-nft", "ip6tables-nft -S")
	nft6.deny = strings.ReplaceAll(nft6.deny, "10.9.9.9", "fd99::9")
	legacy, legacy6 := iptables("legacy", "iptables-legacy", "iptables-legacy -S"), iptables("legacy, IPv6", "ip6tables-legacy", "ip6tables-legacy -S")
	legacy6.deny = strings.ReplaceAll(legacy6.deny, "10.9.9.9", "fd99::9")
	nft.need, nft6.need = []feature.Feature{feature.IPTables}, []feature.Feature{feature.IPTables}
	legacy.need, legacy6.need = []feature.Feature{feature.LegacyIPTables}, []feature.Feature{feature.LegacyIPTables}
	mangle := other{
		name: "iptables, another table, dropping all in a chain", need: nft.need,
		deny: "iptables-nft -t mangle -N rest; iptables-nft -t mangle -A FORWARD -j rest; iptables-nft -t mangle -A rest -i lo -j ACCEPT; iptables-nft -t mangle -A rest -j DROP",
		list: "iptables-nft -t mangle -S", accepts: "iptables-nft -t mangle -S rest | grep sluice || :", before: "-j DROP",
		allow: "iptables-nft -t mangle -I rest -j RETURN",
	}
	policy := other{
		name:    "nft, policy drop",
		deny:    `nft 'table inet theirs { chain passing { type filter hook forward priority 5; policy drop; ip saddr 10.9.9.9 drop; }; chain in { type filter hook input priority 0; policy drop; }; }'`,
		list:    "nft list table inet theirs",
		accepts: "nft list chain inet theirs passing | grep sluice || :", allow: "nft chain inet theirs passing '{ policy accept; }'",
	}
	reject := other{
		name: "nft, rejecting at the end, as firewalld does",
		deny: `nft 'table inet theirs { chain passing { type filter hook forward priority filter + 10; policy accept; ct state established accept; jump zones; reject with icmpx admin-prohibited; }
			chain zones { iifname "lo" goto zone; goto zone; }
			chain zone { ip saddr 10.9.9.9 drop; log prefix "no"; reject with icmpx admin-prohibited; }; }'`,
		list: "nft -s list table inet theirs", accepts: "nft list chain inet theirs zone | grep 'comment \"sluice\"' || :", before: "reject with",
		allow: "nft insert rule inet theirs zone accept",
	}
	shared := other{
		name: "a table of iptables' name that nft made", need: nft.need,
		deny: `nft 'table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; ct mark 7 drop; }; }'`,
		list: "nft list table ip filter", accepts: "nft list chain ip filter FORWARD | grep sluice || :", allow: "nft chain ip filter FORWARD '{ policy accept; }'",
	}
	return []other{nft, nft6, legacy, legacy6, mangle, policy, reject, shared}
}

// Whatever program drops what is forwarded, ours is let through, where its rules are
// asked first, and nothing of that is left.
func TestPassage(t *testing.T) {
	p := holdable(plans(t)["no service"])
	for _, o := range others() {
		t.Run(o.name, func(t *testing.T) {
			feature.Need(t, o.need...)
			inHost(t, func() { pass(t, p, o) })
		})
	}
}

func pass(t *testing.T, p *plan.Plan, o other) {
	t.Helper()
	dir := runDir(t)
	k := openKernel(t, dir)
	defer k.Close()
	mustApply(t, k, p)
	sh(t, o.deny)
	before := sh(t, o.list)
	once := func(what string, rules int) {
		t.Helper()
		mustApply(t, k, p)
		got := sh(t, o.accepts)
		if n := len(strings.Split(got, "\n")); n != max(rules, 1) || (got == "") != (rules == 0) {
			t.Errorf("%s: our rules are\n%s\nwant %d", what, got, rules)
		}
		all := sh(t, o.list)
		if i := strings.LastIndex(all, "sluice"); i >= 0 && !strings.Contains(all[i:], o.before) {
			t.Errorf("%s: %q does not stand behind ours:\n%s", what, o.before, all)
		}
	}
	ops, err := k.Diff(t.Context(), p)
	if err != nil || len(ops) != 1 || !strings.HasPrefix(ops[0].String(), "add host: passage  in ") {
		t.Errorf("it is seen as %v, %v", ops, err)
	}
	once("dropping", len(p.Host().Passages))
	mustReset(t, dir)
	if diff := cmp.Diff(before, sh(t, o.list)); diff != "" {
		t.Errorf("after a reset its rules differ (-before +after):\n%s", diff)
	}
	once("again", len(p.Host().Passages))
	sh(t, o.allow)
	once("dropping no longer", 0)
}

// What is flushed, or appended behind our rules, is heard and mended at once.
func TestPassageIsHeard(t *testing.T) {
	feature.Need(t, feature.IPTables)
	p := holdable(plans(t)["no service"])
	inHost(t, func() {
		k := openKernel(t, runDir(t))
		defer k.Close()
		mustApply(t, k, p)
		for _, command := range []string{
			"iptables-nft -P FORWARD DROP", "iptables-nft -F FORWARD", "iptables-nft -A FORWARD -s 10.9.9.9 -j DROP",
			"nft 'table inet theirs { chain passing { type filter hook forward priority 5; policy drop; }; }'", "nft flush chain inet theirs passing",
			"nft add rule inet sluice-user user ip saddr 10.9.9.9 drop",
		} {
			silence(t, k)
			sh(t, command)
			select {
			case <-k.Drifted():
			case <-time.After(3 * time.Second):
				t.Errorf("%s: not heard", command)
			}
			mustApply(t, k, p)
		}
		if rules := sh(t, "iptables-nft -S FORWARD"); !strings.HasPrefix(rules, "-P FORWARD DROP\n-A FORWARD -s 10.9.9.9/32 -j DROP\n") {
			t.Errorf("the appended rule is not asked first:\n%s", rules)
		}
	})
}

// silence waits until what was done is heard to the end.
func silence(t *testing.T, k *kernel.Kernel) {
	t.Helper()
	for range 20 {
		select {
		case <-k.Drifted():
		case <-time.After(500 * time.Millisecond):
			return
		}
	}
	t.Fatal("changes are heard without end")
}

// Without the program its tables cannot be changed, which is said, and nothing else
// suffers; without such tables nothing is missing.
func TestPassageWithoutIPTables(t *testing.T) {
	feature.Need(t, feature.IPTables)
	p := holdable(plans(t)["no service"])
	inHost(t, func() {
		k := openKernel(t, runDir(t))
		defer k.Close()
		iptables, err := exec.LookPath("iptables-nft")
		if err != nil {
			t.Fatal(err)
		}
		bare := t.TempDir()
		for _, tool := range []string{"nft", "sh"} {
			path, err := exec.LookPath(tool)
			if err == nil {
				err = os.Symlink(path, bare+"/"+tool)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", bare)
		mustApply(t, k, p)
		sh(t, iptables+" -P FORWARD DROP; nft 'table inet theirs { chain passing { type filter hook forward priority 5; policy drop; }; }'")
		report := k.Apply(t.Context(), p)
		if len(report.Failed) != 1 || report.Failed[0].Reason != plan.FeatureMissing || !strings.Contains(report.Failed[0].Error(), "install the package iptables") {
			t.Errorf("failed %v, want FeatureMissing that says what to do", report.Failed)
		}
		if len(report.Done) != 1 || !strings.HasPrefix(report.Done[0].String(), "add host: passage  in nft table inet theirs passing") {
			t.Errorf("done %v", report.Done)
		}
	})
}

func TestFakePassage(t *testing.T) {
	p := plans(t)["no service"]
	f := kernel.NewFake()
	f.Firewall(plan.IPv4, kernel.Drop)
	mustApply(t, f, p)
	f.Firewall(plan.IPv4, kernel.Accept)
	ops, err := f.Diff(t.Context(), p)
	if err != nil || len(ops) != 1 || ops[0].String() != "delete host: passage  in iptables table filter FORWARD" {
		t.Errorf("the reason has gone: %v, %v", ops, err)
	}
	mustApply(t, f, p)
	mustApply(t, f, &plan.Plan{})
}
