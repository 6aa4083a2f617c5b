package kernel_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/footprint"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// sh runs a command in the test's namespace, whose thread it is started from.
func sh(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func takeFootprint(t *testing.T, dir string) []string {
	t.Helper()
	lines, err := footprint.Take(t.Context(), dir, func(ctx context.Context, name string, args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		return string(out), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// ownersHost gives the namespace what a host has of its own, with settings that
// are not the kernel's own choice.
func ownersHost(t *testing.T) {
	t.Helper()
	sh(t, `
		sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
		ip -b - <<-EOF
			link set lo up
			link add eth0 type bridge
			address add 192.0.2.11/24 dev eth0
			address add 2001:db8::11/64 dev eth0 nodad
			link set eth0 up
			route add 198.51.100.0/24 via 192.0.2.1
			rule add from 203.0.113.0/24 lookup 7
			link add heeds type bridge
			link add ignores type bridge
		EOF
		sysctl -qw net.ipv6.conf.heeds.accept_ra=2 net.ipv6.conf.ignores.accept_ra=0 \
			net.ipv4.conf.ignores.forwarding=1 net.ipv6.conf.ignores.forwarding=1 net.ipv4.conf.all.accept_redirects=0
		nft 'table inet theirs { chain in { type filter hook input priority 0; policy accept; tcp dport 25 drop; }; };'
		# An address of the kernel's own is tentative until the kernel has had a moment, and then
		# changes by itself.
		for i in $(seq 200); do
			test -n "$(ip -6 address show tentative)" || exit 0
			sleep 0.05
		done
		echo still tentative; exit 1`)
}

// held is a plan as this kernel can hold it, on a host whose cards hear of their
// routers by advertisements.
func held(p *plan.Plan) *plan.Plan {
	p = holdable(p)
	if len(p.Sandboxes) == 0 {
		return p
	}
	var cards []plan.Sysctl
	for _, card := range []string{"eth0", "heeds", "ignores"} {
		cards = append(cards, plan.Sysctl{Key: "net/ipv6/conf/" + card + "/accept_ra", Value: "2", If: "1"})
	}
	host := p.Host()
	host.Sysctls = append(cards, host.Sysctls...)
	return p
}

// runDir is a run directory, from which nothing stays mounted where a test fails.
func runDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		mounts, err := filepath.Glob(filepath.Join(dir, "netns", "*"))
		for _, m := range mounts {
			err = errors.Join(err, unix.Unmount(m, unix.MNT_DETACH))
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount
			t.Error(err)
		}
	})
	return dir
}

// applied is a kernel that holds the plan, with the endpoints' namespaces in it.
func applied(t *testing.T, dir string, p *plan.Plan) {
	t.Helper()
	k, err := kernel.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	pinWorkloads(t, k, p)
	mustApply(t, k, p)
}

// mustReset resets as another process than the one that applied.
func mustReset(t *testing.T, dir string) kernel.ResetReport {
	t.Helper()
	k, err := kernel.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	report, err := k.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed {
		t.Errorf("reset: %v", f)
	}
	return report
}

func restored(r kernel.ResetReport, key string) bool {
	for _, s := range r.Restored {
		if s.Key == key {
			return true
		}
	}
	return false
}

func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("%s holds %v, %v, want it empty", dir, entries, err)
	}
}

// Whatever was applied, after a reset the host is as before.
func TestResetLeavesNothing(t *testing.T) {
	all := plans(t)
	dir := runDir(t)
	for _, name := range names(all) {
		p := held(all[name])
		inHost(t, func() {
			ownersHost(t)
			before := takeFootprint(t, dir)
			applied(t, dir, p)
			report := mustReset(t, dir)
			if diff := cmp.Diff(before, takeFootprint(t, dir)); diff != "" {
				t.Errorf("%s: after a reset the host differs (-before +after):\n%s", name, diff)
			}
			empty(t, dir)
			if len(report.Left) > 0 {
				t.Errorf("%s: left: %v", name, report.Left)
			}
			if len(p.Sandboxes) > 0 && (len(report.Done) == 0 || !restored(report, "net/ipv6/conf/eth0/accept_ra")) {
				t.Errorf("%s: the report is not whole: %v", name, report)
			}
			if report = mustReset(t, dir); len(report.Done)+len(report.Restored)+len(report.Left) > 0 {
				t.Errorf("%s: a second reset found %v", name, report)
			}
		})
	}
}

// What somebody has changed since is his, and named, also where restoring another
// setting would change it. A device that came since forwards no more than the others.
func TestResetLeavesOthersSettings(t *testing.T) {
	p := held(plans(t)["one endpoint local"])
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		applied(t, dir, p)
		sh(t, `
			sysctl -qw net.ipv6.conf.eth0.accept_ra=0
			sysctl -qw net.ipv4.conf.all.accept_redirects=1 net.ipv4.conf.heeds.forwarding=0
			ip link add late type bridge`)
		report := mustReset(t, dir)
		for file, want := range map[string]string{
			"ipv6/conf/eth0/accept_ra":       "0",
			"ipv4/conf/all/accept_redirects": "1",
			"ipv4/ip_forward":                "0",
			"ipv4/conf/heeds/forwarding":     "0",
			"ipv4/conf/ignores/forwarding":   "1",
			"ipv4/conf/late/forwarding":      "0",
			"ipv6/conf/late/forwarding":      "0",
			"ipv6/conf/heeds/accept_ra":      "2",
		} {
			if got := sh(t, "cat /proc/sys/net/"+file); got != want {
				t.Errorf("%s is %s, want %s", file, got, want)
			}
		}
		var left []string
		for _, l := range report.Left {
			left = append(left, l.Object)
		}
		want := []string{"host: net/ipv4/conf/all/accept_redirects", "host: net/ipv6/conf/eth0/accept_ra"}
		if diff := cmp.Diff(want, left); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
		empty(t, dir)
	})
}

// A value that is stored and was not written after all is no reason for anything,
// nor is one from before the last boot.
func TestResetAfterCrash(t *testing.T) {
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		before := takeFootprint(t, dir)
		applied(t, dir, held(plans(t)["no service"]))
		file := filepath.Join(dir, kernel.SettingsName)
		stored, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		mustReset(t, dir)
		if err := os.WriteFile(file, stored, 0o600); err != nil {
			t.Fatal(err)
		}
		report := mustReset(t, dir)
		if diff := cmp.Diff(before, takeFootprint(t, dir)); diff != "" || len(report.Restored) > 0 || len(report.Left) > 0 {
			t.Errorf("restored %v, left %v (-before +after):\n%s", report.Restored, report.Left, diff)
		}
		sh(t, "sysctl -qw net.ipv4.ip_forward=1")
		boot := sh(t, "cat /proc/sys/kernel/random/boot_id")
		old := strings.Replace(string(stored), boot, "another", 1)
		if err := os.WriteFile(file, []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
		mustReset(t, dir)
		if got := sh(t, "cat /proc/sys/net/ipv4/ip_forward"); got != "1" {
			t.Errorf("values of another boot were restored")
		}
		empty(t, dir)
	})
}

// The file is there before the setting is changed, and none is changed without it.
func TestSettingsAreStoredFirst(t *testing.T) {
	p := held(plans(t)["no service"])
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		// A directory in the file's place cannot be replaced by it.
		if err := os.MkdirAll(filepath.Join(dir, kernel.SettingsName+".new"), 0o755); err != nil {
			t.Fatal(err)
		}
		k, err := kernel.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if report := k.Apply(t.Context(), p); len(report.Failed) == 0 {
			t.Error("nothing failed")
		}
		if got := sh(t, "cat /proc/sys/net/ipv4/ip_forward"); got != "0" {
			t.Errorf("ip_forward was changed with nothing stored")
		}
		if err := os.Remove(filepath.Join(dir, kernel.SettingsName+".new")); err != nil {
			t.Fatal(err)
		}
		mustApply(t, k, p)
		sh(t, "sysctl -qw net.ipv4.ip_forward=0")
		mustApply(t, k, p) // a repair does not make our value the earlier one
		mustReset(t, dir)
		if got := sh(t, "cat /proc/sys/net/ipv4/ip_forward"); got != "0" {
			t.Errorf("ip_forward is %s", got)
		}
	})
}

// What is not ours stays, and so does another namespace's host.
func TestResetRefuses(t *testing.T) {
	p := held(plans(t)["no service"])
	dir := runDir(t)
	inHost(t, func() {
		applied(t, dir, p)
		stranger := filepath.Join(dir, "netns", "stranger")
		if err := os.WriteFile(stranger, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		inHost(t, func() {
			k, err := kernel.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			_, err = k.Reset(t.Context())
			wantRefusal(t, err, kernel.ElsewhereHost)
		})
		report := mustReset(t, dir)
		if len(report.Left) != 1 || report.Left[0].Object != stranger {
			t.Errorf("left %v, want %s", report.Left, stranger)
		}
		if _, err := os.Stat(stranger); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(dir, kernel.SettingsName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := kernel.New(dir)
		wantRefusal(t, err, kernel.SettingsDamaged)
	})
}
