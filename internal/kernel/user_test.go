package kernel_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

const (
	listUser = "nft -s list table inet sluice-user"
	ownRules = `
		nft add set inet sluice-user bad '{ type ipv4_addr; elements = { 10.9.9.9, 10.9.9.8 }; }'
		nft add rule inet sluice-user user ip saddr @bad tcp dport 8080 counter drop
		nft add rule inet sluice-user user iifname "eth0" log prefix '"a b"' comment '"mine"'`
)

// The administrator's rules are there whatever is flushed, also by a new process.
func TestUserRulesSurvive(t *testing.T) {
	p := holdable(plans(t)["no service"])
	dir := runDir(t)
	inHost(t, func() {
		k := openKernel(t, dir)
		mustApply(t, k, p)
		sh(t, ownRules)
		mustApply(t, k, p)
		want := sh(t, listUser)
		check := func(what string) {
			t.Helper()
			ops, err := k.Diff(t.Context(), p)
			if first := plan.HostSandbox; err != nil || len(ops) == 0 || !strings.HasPrefix(ops[0].String(), "add "+first+": user ") {
				t.Errorf("%s: not seen, or not first: %v %v", what, ops, err)
			}
			mustApply(t, k, p)
			if diff := cmp.Diff(want, sh(t, listUser)); diff != "" {
				t.Fatalf("%s: the rules differ (-before +after):\n%s", what, diff)
			}
		}
		sh(t, "nft flush ruleset")
		check("flush")
		sh(t, "nft add element inet sluice-user bad '{ 10.9.9.7 }'")
		mustApply(t, k, p)
		want = sh(t, listUser)
		k.Close()
		sh(t, "nft flush ruleset")
		k = openKernel(t, dir)
		defer func() { k.Close() }()
		check("flush while nobody looked")
		sh(t, "nft delete table inet sluice")
		mustApply(t, k, p)
		if diff := cmp.Diff(want, sh(t, listUser)); diff != "" {
			t.Errorf("our own table alone: the rules differ:\n%s", diff)
		}
	})
}

// What the administrator takes away himself stays away.
func TestUserRulesTaken(t *testing.T) {
	p := holdable(plans(t)["no service"])
	inHost(t, func() {
		k := openKernel(t, runDir(t))
		defer k.Close()
		mustApply(t, k, p)
		empty := sh(t, listUser)
		for _, command := range []string{
			"nft flush chain inet sluice-user user; nft delete set inet sluice-user bad",
			"nft delete table inet sluice-user",
			"nft delete chain inet sluice-user user; nft delete set inet sluice-user bad",
		} {
			sh(t, ownRules)
			mustApply(t, k, p)
			sh(t, command)
			mustApply(t, k, p)
			sh(t, "nft flush ruleset")
			mustApply(t, k, p)
			if diff := cmp.Diff(empty, sh(t, listUser)); diff != "" {
				t.Errorf("%s: the rules are back (-empty +after):\n%s", command, diff)
			}
		}
	})
}

// Rules that do not load are named, kept, and loaded once they are corrected.
func TestUserRulesDamaged(t *testing.T) {
	p := holdable(plans(t)["no service"])
	dir := runDir(t)
	inHost(t, func() {
		k := openKernel(t, dir)
		mustApply(t, k, p)
		sh(t, ownRules)
		mustApply(t, k, p)
		want := sh(t, listUser)
		file := filepath.Join(dir, kernel.UserRulesName)
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		damaged := strings.Replace(string(good), "tcp dport", "tcp dports", 1)
		if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		sh(t, "nft flush ruleset")
		for range 3 {
			report := k.Apply(t.Context(), p)
			if len(report.Failed) != 1 || report.Failed[0].Reason != kernel.UserRulesLost || !strings.Contains(report.Failed[0].Error(), file) {
				t.Fatalf("failed %v, want UserRulesLost alone, naming the file", report.Failed)
			}
			k.Close() // and a restart forgets nothing
			k = openKernel(t, dir)
		}
		defer func() { k.Close() }()
		kept, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(kept), "tcp dports") {
			t.Fatalf("thrown away: %v\n%s", err, kept)
		}
		corrected := strings.Replace(string(kept), "tcp dports", "tcp dport", 1)
		if err := os.WriteFile(file, []byte(corrected), 0o600); err != nil {
			t.Fatal(err)
		}
		mustApply(t, k, p)
		if diff := cmp.Diff(want, sh(t, listUser)); diff != "" {
			t.Errorf("corrected: the rules differ (-before +after):\n%s", diff)
		}
	})
}

// A reset leaves the administrator's rules, says so, and takes an empty table along.
func TestUserRulesAtReset(t *testing.T) {
	p := holdable(plans(t)["no service"])
	dir := runDir(t)
	inHost(t, func() {
		applied(t, dir, p)
		sh(t, ownRules)
		applied(t, dir, p)
		want := sh(t, listUser)
		report := mustReset(t, dir)
		if len(report.Left) != 1 || !strings.Contains(report.Left[0].Object, plan.UserTable) {
			t.Errorf("left %v, want the table", report.Left)
		}
		if diff := cmp.Diff(want, sh(t, "nft -s list ruleset")); diff != "" {
			t.Errorf("the rules differ (-before +after):\n%s", diff)
		}
		empty(t, dir)
		applied(t, dir, p)
		if diff := cmp.Diff(want, sh(t, listUser)); diff != "" {
			t.Errorf("the next agent changed them (-before +after):\n%s", diff)
		}
		sh(t, "nft delete table inet sluice-user")
		applied(t, dir, p)
		mustReset(t, dir)
		if left := sh(t, "nft list ruleset"); left != "" {
			t.Errorf("left: %s", left)
		}
		empty(t, dir)
	})
}
