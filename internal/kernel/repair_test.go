package kernel_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// sabotage are shell commands run in the host's namespace; $NET, $SBOX and $EP
// name sandboxes for nsenter. After each, one round puts all back.
func sabotage() []string {
	return []string{
		"ip link del sl-ingress",
		"nsenter --net=$SBOX ip link del vx",
		"nsenter --net=$SBOX ip link set vx down",
		"nsenter --net=$SBOX ip link set vx mtu 1300",
		"nsenter --net=$SBOX ip link del door",
		"nsenter --net=$EP ip link del sluice0",
		"nsenter --net=$EP ip addr flush dev sluice0",
		"nsenter --net=$EP ip route flush proto 83",
		"nsenter --net=$SBOX ip neigh flush all nud permanent",
		"nsenter --net=$NET ip -6 route flush proto 83",
		"nsenter --net=$NET bridge fdb del $(nsenter --net=$NET bridge fdb show dev vx | head -1 | cut -d' ' -f1) dev vx",
		"nsenter --net=$NET sysctl -qw net.ipv4.ip_forward=0",
		"sysctl -qw net.ipv4.conf.sl-ingress.route_localnet=0",
		"nft flush ruleset",
		"nft delete table inet sluice",
		"nft flush chain inet sluice capture",
		"nft delete rule inet sluice guard handle $(nft -a list chain inet sluice guard | sed -n 's/.*handle //p' | tail -1)",
		"nft replace rule inet sluice guard handle $(nft -a list chain inet sluice guard | sed -n 's/.*handle //p' | tail -1) accept",
		"nft flush set inet sluice published",
		"nft add element inet sluice published { tcp . 9999 }",
		"nsenter --net=$SBOX nft flush map inet sluice services4",
		"nsenter --net=$NET nft delete table netdev sluice",
		"nsenter --net=$NET nft flush chain netdev sluice back",
		"umount -l $SBOX",
		"umount -l $NET",
		"umount -l $EP",
		"nsenter --net=$EP sysctl -qw net.ipv6.conf.sluice0.disable_ipv6=1",
	}
}

func TestApplyRepairs(t *testing.T) {
	p := holdable(plans(t)["two services"])
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		pinWorkloads(t, k, p)
		ep := endpoints(p)[0]
		defer func() {
			mustApply(t, k, &plan.Plan{})
			// One of the commands hides the sandboxes below a mount of its own.
			dir := filepath.Dir(k.Path(ep))
			if out, err := exec.Command("sh", "-c", "umount "+dir+"; for f in "+dir+"/*; do umount $f 2>/dev/null || :; done").CombinedOutput(); err != nil {
				t.Errorf("take away what hid the sandboxes: %v: %s", err, out)
			}
		}()
		mustApply(t, k, p)
		paths := strings.NewReplacer("$NET", k.Path("sluice-1048576"), "$SBOX", k.Path(plan.IngressSandbox), "$EP", k.Path(ep), "$DIR", filepath.Dir(k.Path(ep)))
		for _, command := range append(sabotage(), "umount -l $EP && mount -t tmpfs none $DIR") {
			if out, err := exec.Command("sh", "-ec", paths.Replace(command)).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", command, err, out)
			}
			ops, err := k.Diff(t.Context(), p)
			if err != nil || len(ops) == 0 {
				t.Errorf("%s: not seen: %v %v", command, ops, err)
			}
			if report := k.Apply(t.Context(), p); len(report.Failed) > 0 {
				t.Fatalf("%s: repair failed: %v", command, report.Failed)
			}
			if ops, err := k.Diff(t.Context(), p); err != nil || len(ops) > 0 {
				t.Fatalf("%s: not repaired by one round: %v %v", command, ops, err)
			}
		}
	})
}

// What is not ours is left alone and named where it is in the way.
func TestForeignObjects(t *testing.T) {
	p := holdable(plans(t)["no service"])
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		ip(t, `link add sl-ingress type bridge
			link add lan type bridge
			addr add 192.0.2.11/24 dev lan
			link set lan up
			route add 198.51.100.0/24 via 192.0.2.1
			route add 203.0.113.0/24 via 192.0.2.1 table 100 proto 83
			neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev lan nud permanent`)
		report := k.Apply(t.Context(), p)
		found := false
		for _, f := range report.Failed {
			found = found || strings.Contains(f.Error(), "a device named sl-ingress that is not ours is in")
		}
		if !found {
			t.Errorf("the foreign device should be named, got %v", report.Failed)
		}
		if out, err := exec.Command("ip", "link", "show", "sl-ingress", "type", "bridge").CombinedOutput(); err != nil || len(out) == 0 {
			t.Errorf("the foreign device is gone: %v", err)
		}
		ip(t, "link del sl-ingress")
		mustApply(t, k, p)
		mustApply(t, k, &plan.Plan{})
		out, err := exec.Command("sh", "-c", "ip -br addr show lan; ip route show table all; ip neigh show nud permanent").CombinedOutput()
		for _, want := range []string{"192.0.2.11/24", "198.51.100.0/24 via 192.0.2.1", "203.0.113.0/24 via 192.0.2.1", "192.0.2.7 dev lan lladdr 02:00:00:00:00:07"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%q is gone: %v\n%s", want, err, out)
			}
		}
	})
}
