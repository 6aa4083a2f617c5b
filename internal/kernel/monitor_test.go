package kernel_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// quiet is longer than the time between two signals.
const quiet = 300 * time.Millisecond

// settleDrifts takes the signals that still come and tells how many there were.
func settleDrifts(t *testing.T, k *kernel.Kernel) int {
	t.Helper()
	for n := range 100 {
		select {
		case <-k.Drifted():
		case <-time.After(quiet):
			return n
		}
	}
	t.Fatal("signals without end")
	return 0
}

// heard waits for a drift that is as wanted, for a second.
func heard(t *testing.T, k *kernel.Kernel, wanted func(kernel.Drift) bool) (kernel.Drift, bool) {
	t.Helper()
	deadline := time.After(time.Second)
	for {
		select {
		case drifts := <-k.Drifted():
			if i := slices.IndexFunc(drifts, wanted); i >= 0 {
				return drifts[i], true
			}
		case <-deadline:
			return kernel.Drift{}, false
		}
	}
}

// withPlan applies a plan with an endpoint and gives what replaces the names of
// sandboxes in sabotage.
func withPlan(t *testing.T, k *kernel.Kernel) (*plan.Plan, func(string) string) {
	t.Helper()
	p := holdable(plans(t)["two services"])
	w, err := kernel.NewWorkload()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	ep := endpoints(p)[0]
	if err := k.Pin(ep, w.Path()); err != nil {
		t.Fatal(err)
	}
	mustApply(t, k, p)
	paths := strings.NewReplacer("$NET", k.Path("sluice-1048576"), "$SBOX", k.Path(plan.IngressSandbox), "$EP", k.Path(ep))
	return p, paths.Replace
}

func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// route_localnet sends no event.
func silent(command string) bool { return strings.Contains(command, "route_localnet") }

// sandboxOf tells in which sandbox a command of sabotage acts.
func sandboxOf(command, endpoint string) string {
	switch {
	case strings.Contains(command, "$NET"):
		return "sluice-1048576"
	case strings.Contains(command, "$SBOX"):
		return plan.IngressSandbox
	case strings.Contains(command, "$EP"):
		return endpoint
	default:
		return plan.HostSandbox
	}
}

// Every sabotage that the kernel tells of is heard within a second, and the round
// that repairs it causes at most one more, which finds nothing.
func TestDriftIsHeard(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		p, paths := withPlan(t, k)
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		settleDrifts(t, k)
		for _, command := range sabotage() {
			began := time.Now()
			shell(t, paths(command))
			sandbox := sandboxOf(command, endpoints(p)[0])
			d, ok := heard(t, k, func(d kernel.Drift) bool { return d.Sandbox == sandbox })
			switch {
			case !ok && !silent(command):
				t.Errorf("%s: not heard", command)
			case strings.HasPrefix(command, "nft") && !strings.HasPrefix(d.By, "nft (pid "):
				t.Errorf("%s: heard %+v, want nft as its maker", command, d)
			default:
				t.Logf("%s: %+v after %s", command, d, time.Since(began).Round(time.Millisecond))
			}
			mustApply(t, k, p)
			if looks := settleDrifts(t, k); looks > 1 {
				t.Errorf("%s: the repair caused %d signals, want one at most", command, looks)
			}
		}
	})
}

// What a round did itself is no reason for more than one other, and what nft says
// to be ours for none.
func TestOwnChangesEnd(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		p, _ := withPlan(t, k)
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		rounds := 0
		for {
			select {
			case drifts := <-k.Drifted():
				t.Logf("heard %v", drifts)
				rounds++
				if report := k.Apply(t.Context(), p); len(report.Done)+len(report.Failed) > 0 {
					t.Fatalf("the round after the first did %v %v", report.Done, report.Failed)
				}
				continue
			case <-time.After(quiet):
			}
			break
		}
		if rounds > 1 {
			t.Errorf("%d rounds followed the first, want one at most", rounds)
		}
		without := *p
		without.Sandboxes = slices.Clone(p.Sandboxes)
		for i, s := range without.Sandboxes {
			c := *s
			c.Tables = nil
			without.Sandboxes[i] = &c
		}
		for _, want := range []*plan.Plan{&without, p} { // deletes by netlink, loads by the program
			mustApply(t, k, want)
			select {
			case drifts := <-k.Drifted():
				t.Errorf("own change of tables was heard as %v", drifts)
			case <-time.After(quiet):
			}
		}
	})
}

// A process's second socket in a namespace has a number of its own; what it changes is
// ours all the same.
func TestOwnSecondSocket(t *testing.T) {
	inHost(t, func() {
		first, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(first)
		if err := unix.Bind(first, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: uint32(os.Getpid())}); err != nil {
			t.Fatal(err)
		}
		k := newKernel(t)
		defer k.Close()
		p, paths := withPlan(t, k)
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		settleDrifts(t, k)
		shell(t, paths("nft flush set inet sluice published"))
		d, ok := heard(t, k, func(d kernel.Drift) bool { return d.Sandbox == plan.HostSandbox })
		if !ok || !strings.HasPrefix(d.By, "nft (pid ") {
			t.Errorf("heard %+v, want nft as its maker", d)
		}
		mustApply(t, k, p) // elements by netlink
		select {
		case drifts := <-k.Drifted():
			t.Errorf("own change of elements was heard as %v", drifts)
		case <-time.After(quiet):
		}
	})
}

// A storm of events is a few signals, and what they say stays bounded.
func TestDriftStorm(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		_, paths := withPlan(t, k)
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		settleDrifts(t, k)
		var script strings.Builder
		for i := range 500 {
			fmt.Fprintf(&script, "addr add 10.9.%d.%d/32 dev sl-ingress\naddr del 10.9.%d.%d/32 dev sl-ingress\n", i/250, i%250, i/250, i%250)
		}
		began := time.Now()
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(script.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("storm: %v: %s", err, out)
		}
		signals := settleDrifts(t, k)
		took := time.Since(began)
		most := 2 + int(took/(200*time.Millisecond))
		if signals == 0 || signals > most {
			t.Errorf("1,000 events made %d signals in %s, want 1 to %d", signals, took, most)
		}
		// Nobody takes the signals: one is kept.
		for range 3 {
			shell(t, paths("nsenter --net=$NET ip addr add 10.9.9.9/32 dev vx; nsenter --net=$NET ip addr del 10.9.9.9/32 dev vx"))
		}
		drifts, ok := heard(t, k, func(d kernel.Drift) bool { return d.Sandbox == "sluice-1048576" && d.Kind == "addr" })
		if !ok {
			t.Errorf("what followed the storm was not heard: %v", drifts)
		}
	})
}

// Watchers follow sandboxes that come and go, and Close leaves nothing.
func TestMonitorLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	inHost(t, func() {
		before := openFiles(t)
		k := newKernel(t)
		watching := openFiles(t)
		for range 3 {
			_, _ = withPlan(t, k)
			mustApply(t, k, &plan.Plan{})
		}
		settleDrifts(t, k)
		// The host's nft connection stays open; a sandbox would be more.
		if now := openFiles(t); now > watching+6 {
			t.Errorf("%d files are open after all sandboxes are gone, %d before", now, watching)
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		if after := openFiles(t); after != before+3 { // the workloads
			t.Errorf("%d files are open after Close, %d before", after, before)
		}
	})
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestCulprit(t *testing.T) {
	link := kernel.Op{Verb: kernel.Add, Sandbox: "a", Object: plan.Link{}}
	for _, c := range []struct {
		name  string
		heard []kernel.Drift
		want  string
	}{
		{"nothing heard", nil, ""},
		{"the same object's kind", []kernel.Drift{{"a", "nft", "x"}, {"b", "links", "y"}, {"a", "links", "z"}}, "z"},
		{"something else in the sandbox", []kernel.Drift{{"b", "links", "y"}, {"a", "nft", "x"}}, "x"},
		{"one alone, elsewhere", []kernel.Drift{{"b", "links", "y"}, {"c", "links", ""}, {"b", "nft", "y"}}, "y"},
		{"several, elsewhere", []kernel.Drift{{"b", "links", "y"}, {"c", "links", "z"}}, ""},
		{"nobody named", []kernel.Drift{{"a", "links", ""}}, ""},
	} {
		if got := kernel.Culprit(c.heard, link); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
