package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// The moments of an endpoint's life at which an agent is killed, in their order.
const (
	notPinned    = "asked to pin"
	pinned       = "pinned"
	toApply      = "recorded" // with the process that it ends with
	wasApplied   = "applied"
	toRelease    = "deleted"
	wasReleased  = "released"
	victimMoment = "SLUICE_TEST_MOMENT"
	victimFiles  = "SLUICE_TEST_FILES"
)

// mortal is a machine under which the agent's process dies.
type mortal struct {
	*fakeMachine
	moment string
	had    bool // an endpoint was planned before
}

func (m *mortal) at(moment string) {
	if m.moment == moment {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // no further
	}
}

func (m *mortal) Pin(name, path string) error {
	m.at(notPinned)
	err := m.fakeMachine.Pin(name, path)
	m.at(pinned)
	return err
}

func (m *mortal) Apply(ctx context.Context, want *plan.Plan) kernel.Report {
	has := slices.ContainsFunc(want.Sandboxes, func(s *plan.Sandbox) bool { return s.Kind == plan.KindEndpoint })
	gone := m.had && !has
	m.had = has
	if has {
		m.at(toApply)
	}
	if gone {
		m.at(toRelease)
	}
	report := m.fakeMachine.Apply(ctx, want)
	if has {
		m.at(wasApplied)
	}
	if gone {
		m.at(wasReleased)
	}
	return report
}

// sandboxesIn is where the fake machine keeps what is pinned, beside the agent's files.
func (a *testAgent) sandboxesIn(dir string) {
	a.machine.dir = filepath.Join(dir, "sandboxes")
	if err := os.MkdirAll(a.machine.dir, 0o700); err != nil {
		a.tb.Fatal(err)
	}
}

// TestVictim is the agent that is killed at a moment of the life of its endpoint. By
// itself it does nothing.
func TestVictim(t *testing.T) {
	moment, dir := os.Getenv(victimMoment), os.Getenv(victimFiles)
	if moment == "" {
		return
	}
	a := agentIn(t, 1, dir)
	a.sandboxesIn(dir)
	a.kernel = &mortal{fakeMachine: a.machine, moment: moment}
	a.start()
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	a.create("web", "8080:80")
	if _, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.1", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns")},
		UntilPid: 1,
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"}); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("the agent outlived the moment %q", moment)
}

// killAgent runs an agent with its files in dir, in a process and a network
// namespace of its own, until the moment.
func killAgent(t *testing.T, moment, dir string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVictim$", "-test.timeout=60s")
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, insideVariable+"=") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, victimMoment+"="+moment, victimFiles+"="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), "FAIL") {
		t.Fatalf("killed at %q: %v\n%s", moment, err, out)
	}
}

// Wherever the agent dies, after the next start every namespace that is pinned has
// its record, and every record its namespace.
func TestKilledAroundEndpoint(t *testing.T) {
	for moment, want := range map[string]string{
		notPinned: "", pinned: "", toApply: "web.1@n1", wasApplied: "web.1@n1", toRelease: "", wasReleased: "",
	} {
		t.Run(moment, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "sl") //nolint:usetesting // short: a socket's path has at most 107 bytes
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			killAgent(t, moment, dir)
			a := agentIn(t, 1, dir)
			a.sandboxesIn(dir)
			before := len(a.machine.pinned())
			if held := moment != notPinned && moment != wasReleased; held != (before == 1) {
				t.Fatalf("the dead agent left %d namespaces", before)
			}
			a.start()
			if got := a.endpointNames(); got != want {
				t.Errorf("the endpoints are %q, want %q", got, want)
			}
			eventually(t, "what is pinned is what is recorded", func() bool {
				return fmt.Sprint(a.machine.pinned()) == fmt.Sprint(recorded(a.machine.plan()))
			})
			a.stop()
			store, content := mustOpen(t, a.cfg.DataDir)
			defer store.close()
			if len(content.Lifetimes) != len(recorded(a.machine.plan())) {
				t.Errorf("the store knows the processes %v, of %v", content.Lifetimes, recorded(a.machine.plan()))
			}
		})
	}
}

// recorded are the plan's endpoints.
func recorded(p *plan.Plan) []string {
	names := []string{}
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindEndpoint {
			names = append(names, s.Name)
		}
	}
	return names
}
