package kernel_test

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// plans are the golden states' plans on node n1, by name.
func plans(tb testing.TB) map[string]*plan.Plan {
	tb.Helper()
	found := map[string]*plan.Plan{"nothing": {}}
	for name := range scene.All() {
		found[name] = planOf(tb, name)
		found[name+withNFT] = planOf(tb, name+withNFT)
	}
	return found
}

// withNFT ends the name of a state whose services are balanced by nft.
const withNFT = ", nft"

// planOf is one of them.
func planOf(tb testing.TB, state string) *plan.Plan {
	tb.Helper()
	if state == "nothing" {
		return &plan.Plan{}
	}
	local := mesh.Local{ID: scene.NodeID(1)}
	state, byNFT := strings.CutSuffix(state, withNFT)
	if byNFT {
		local.Balancer = mesh.BalancerNFT
	}
	w := scene.New(tb, 3)
	scene.All()[state](w)
	return agent.Compile(local, w.State.Snapshot())
}

func names(plans map[string]*plan.Plan) []string {
	var list []string
	for name := range plans {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

func endpoints(p *plan.Plan) []string {
	var list []string
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindEndpoint {
			list = append(list, s.Name)
		}
	}
	return list
}

func mustApply(t *testing.T, k kernel.Applier, p *plan.Plan) {
	t.Helper()
	report := k.Apply(t.Context(), p)
	for _, f := range report.Failed {
		t.Errorf("apply: %v (%s)", f, f.Reason)
	}
	ops, err := k.Diff(t.Context(), p)
	if err != nil {
		t.Errorf("diff after apply: %v", err)
	}
	for _, op := range ops {
		t.Errorf("still differs after apply: %s", op)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Whatever was there before, the same plan ends in the same machine.
func TestFakeStates(t *testing.T) {
	all := plans(t)
	fresh := map[string]string{}
	for name, p := range all {
		f := kernel.NewFake()
		for _, e := range endpoints(p) {
			f.Pin(e)
		}
		mustApply(t, f, p)
		fresh[name] = f.Text()
	}
	for seed := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, 7))
		f := kernel.NewFake()
		for range 40 {
			name := names(all)[r.IntN(len(all))]
			for _, e := range endpoints(all[name]) {
				f.PinAbsent(e)
			}
			mustApply(t, f, all[name])
			if diff := cmp.Diff(strings.Split(settled(fresh[name]), "\n"), strings.Split(settled(f.Text()), "\n")); diff != "" {
				t.Fatalf("seed %d: state %q reached from another one differs from a fresh one (-fresh +got):\n%s", seed, name, diff)
			}
		}
	}
}

// settled leaves out what a plan does not put back: the host's own settings,
// which reset restores, and those of the one balancer when the other took its place.
func settled(text string) string {
	var lines []string
	host := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "sandbox ") {
			host = strings.HasPrefix(line, "sandbox host")
		}
		balancers := strings.HasPrefix(line, "  sysctl   net/ipv4/vs/") || strings.HasPrefix(line, "  ipvs     timeouts") ||
			strings.HasPrefix(line, "  sysctl   net/netfilter/nf_conntrack_tcp_loose")
		if !balancers && (!host || !strings.HasPrefix(line, "  sysctl")) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// One op in ten fails, each time another: rounds go on until all is done, and
// the machine is then as if none had failed.
func TestFakeStatesWithFaults(t *testing.T) {
	all := plans(t)
	for _, name := range names(all) {
		clean := kernel.NewFake()
		faulty := kernel.NewFake()
		r := rand.New(rand.NewPCG(1, 2))
		faulty.Fault = func(kernel.Op) error {
			if r.IntN(10) == 0 {
				return syscall.EAGAIN
			}
			return nil
		}
		for _, e := range endpoints(all[name]) {
			clean.Pin(e)
			faulty.Pin(e)
		}
		mustApply(t, clean, all[name])
		rounds := 0
		for report := faulty.Apply(t.Context(), all[name]); len(report.Failed) > 0; report = faulty.Apply(t.Context(), all[name]) {
			if rounds++; rounds > 50 {
				t.Fatalf("%s: still failing after %d rounds: %v", name, rounds, report.Failed)
			}
		}
		if diff := cmp.Diff(clean.Text(), faulty.Text()); diff != "" {
			t.Errorf("%s: after faults the machine differs (-clean +got):\n%s", name, diff)
		}
	}
}

// inHost runs f in a fresh network namespace that takes the host's part.
func inHost(tb testing.TB, f func()) {
	tb.Helper()
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		tb.Fatal(err)
	}
	host, err := netns.New()
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		host.Close()
		if err := netns.Set(home); err != nil {
			tb.Fatal(err) // the thread stays locked and ends with the test
		}
		home.Close()
		runtime.UnlockOSThread()
	}()
	f()
}

// holdable is the part of a plan that this kernel can hold; the rest is applied
// where the mesh itself is tested.
func holdable(p *plan.Plan) *plan.Plan {
	if !kernel.HasIPVS() {
		return withoutIPVS(p)
	}
	return p
}

// pinWorkloads makes namespaces for the plan's endpoints that have none and pins
// them, as attaching would.
func pinWorkloads(tb testing.TB, k *kernel.Kernel, p *plan.Plan) []*kernel.Workload {
	tb.Helper()
	var workloads []*kernel.Workload
	for _, e := range endpoints(p) {
		if k.Pinned(e) {
			continue
		}
		w, err := kernel.NewWorkload()
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { w.Close() })
		if err := k.Pin(e, w.Path()); err != nil {
			tb.Fatal(err)
		}
		workloads = append(workloads, w)
	}
	return workloads
}

// withoutIPVS is the part of a plan that a kernel without IP_VS can hold.
func withoutIPVS(p *plan.Plan) *plan.Plan {
	var rest plan.Plan
	for _, s := range p.Sandboxes {
		c := *s
		c.Virtual, c.Backends, c.Timeouts = nil, nil, plan.Timeouts{}
		c.Sysctls = slices.DeleteFunc(slices.Clone(s.Sysctls), func(s plan.Sysctl) bool {
			return strings.HasPrefix(s.Key, "net/ipv4/vs/")
		})
		rest.Sandboxes = append(rest.Sandboxes, &c)
	}
	return &rest
}

// Every golden plan can be applied to a real kernel, reads back equal, and
// leaves nothing behind.
func TestKernelStates(t *testing.T) {
	all := plans(t)
	inHost(t, func() {
		k, err := kernel.New(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		for _, name := range names(all) {
			p := holdable(all[name])
			pinWorkloads(t, k, p)
			t.Log(name)
			mustApply(t, k, p)
			mustApply(t, k, &plan.Plan{})
		}
		if ops, err := k.Diff(t.Context(), &plan.Plan{}); err != nil || len(ops) > 0 {
			t.Errorf("something of ours is left: %v %v", ops, err)
		}
	})
}
