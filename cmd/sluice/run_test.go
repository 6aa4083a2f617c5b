package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// fakeWorkloads stands for the machine; it is also the one workload there.
type fakeWorkloads struct {
	missing error                                   // LookPath
	denied  error                                   // New
	run     func(sig <-chan os.Signal) (int, error) // Run; nil: success
	argv    []string                                // what ran
	closed  int
	conf    string // the command's resolv.conf
}

func (f *fakeWorkloads) LookPath(string) error { return f.missing }

func (f *fakeWorkloads) New() (workload, error) { return f, f.denied }

func (f *fakeWorkloads) Path() string { return "/proc/7/fd/9" }

func (f *fakeWorkloads) Close() error { f.closed++; return nil }

func (f *fakeWorkloads) Resolve(file string, _ func(error)) { f.conf = file }

func (f *fakeWorkloads) Run(_ context.Context, argv []string, sig <-chan os.Signal) (int, error) {
	f.argv = argv
	if f.run == nil {
		return 0, nil
	}
	return f.run(sig)
}

// ends is a command that ends with a status.
func ends(status int) func(<-chan os.Signal) (int, error) {
	return func(<-chan os.Signal) (int, error) { return status, nil }
}

func TestRun(t *testing.T) {
	attached := &sluicev1.AttachEndpointResponse{Endpoint: endpointWeb()}
	notAllowed := refusal(t, codes.NotFound, "NotFound", "service \"web\" does not exist", "make it with \"sluice service create\"")
	for _, c := range []struct {
		name     string
		machine  fakeWorkloads
		attach   any
		detach   any
		status   int
		stderr   string
		asked    string
		attempts int // commands run
	}{
		{name: "success", attach: attached, asked: "AttachEndpoint DetachEndpoint", attempts: 1},
		{
			name: "status passes", machine: fakeWorkloads{run: ends(143)}, attach: attached,
			status: 143, asked: "AttachEndpoint DetachEndpoint", attempts: 1,
		},
		{
			name: "no such program", machine: fakeWorkloads{missing: &kernel.Refusal{Why: "there is no program \"srv\"", Do: "give its path"}},
			status: 1, stderr: `sluice: run "srv" for service "web": there is no program "srv": give its path`,
		},
		{
			name: "no namespace", machine: fakeWorkloads{denied: fmt.Errorf("make namespace: %w", syscall.EPERM)},
			status: 1, stderr: `sluice: run "srv" for service "web": make namespace: operation not permitted: run it as root`,
		},
		{
			name: "attach refused", attach: notAllowed, status: 1, asked: "AttachEndpoint",
			stderr: `sluice: run "srv" for service "web": service "web" does not exist: make it with "sluice service create"`,
		},
		{
			name: "command does not start", attach: attached, status: 1, asked: "AttachEndpoint DetachEndpoint", attempts: 1,
			machine: fakeWorkloads{run: func(<-chan os.Signal) (int, error) { return 0, errors.New("exec format error") }},
			stderr:  `sluice: run "srv" for service "web": exec format error: check that the command can be started by hand`,
		},
		{
			name: "detach fails", machine: fakeWorkloads{run: ends(7)}, attach: attached,
			detach: refusal(t, codes.Internal, "KernelRefused", "link busy", "look at the log"),
			status: 7, asked: "AttachEndpoint DetachEndpoint", attempts: 1,
			stderr: `sluice: detach endpoint "00000000000000d1": link busy: look at the log`,
		},
		{
			name: "service was removed meanwhile", attach: attached, detach: notAllowed,
			asked: "AttachEndpoint DetachEndpoint", attempts: 1,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.detach == nil {
				c.detach = &sluicev1.DetachEndpointResponse{}
			}
			f := startAgent(t, map[string]any{"AttachEndpoint": c.attach, "DetachEndpoint": c.detach})
			a := newApp()
			a.workloads = &c.machine
			got := sluice(t, a, "--host", f.host, "run", "--service", "web", "--", "srv", "--port", "80")
			if got.status != c.status || strings.TrimSuffix(got.stderr, "\n") != c.stderr || got.stdout != "" {
				t.Errorf("got %+v", got)
			}
			var asked []string
			for _, q := range f.questions() {
				method, _, _ := strings.Cut(q, " ")
				asked = append(asked, method)
			}
			if strings.Join(asked, " ") != c.asked {
				t.Errorf("asked %v, want %s", asked, c.asked)
			}
			if ran := strings.Join(c.machine.argv, " "); (ran == "srv --port 80") != (c.attempts == 1) {
				t.Errorf("ran %q", ran)
			}
			if made := c.machine.missing == nil && c.machine.denied == nil; made != (c.machine.closed == 1) {
				t.Errorf("closed %d times", c.machine.closed)
			}
		})
	}
}

// TestRunAsks sees what the agent is told, and that options behind the command
// are the command's own even without "--".
func TestRunAsks(t *testing.T) {
	f := startAgent(t, map[string]any{
		"AttachEndpoint": &sluicev1.AttachEndpointResponse{Endpoint: endpointWeb()},
		"DetachEndpoint": &sluicev1.DetachEndpointResponse{},
	})
	m := &fakeWorkloads{}
	a := newApp()
	a.workloads = m
	got := sluice(t, a, "--host", f.host, "run", "--service", "web", "--name", "web.9", "--weight", "5", "--network", "back,interface=net0", "srv", "--name", "own")
	if got.status != 0 || strings.Join(m.argv, " ") != "srv --name own" {
		t.Errorf("got %+v, ran %v", got, m.argv)
	}
	if want := filepath.Join(filepath.Dir(strings.TrimPrefix(f.host, "unix://")), "resolv.conf"); m.conf != want {
		t.Errorf("the command resolves by %s, want %s", m.conf, want)
	}
	want := fmt.Sprintf(`AttachEndpoint {
  "service": "web",
  "name": "web.9",
  "weight": 5,
  "netns": "/proc/7/fd/9",
  "untilPid": %d,
  "addresses": [],
  "networks": [
    {
      "network": "back",
      "addresses": [],
      "mac": "",
      "interface": "net0",
      "gatewayPriority": 0,
      "aliases": [],
      "sysctls": []
    }
  ]
}
DetachEndpoint {
  "endpoint": "00000000000000d1"
}
`, os.Getpid())
	if asked := strings.Join(f.questions(), ""); asked != want {
		t.Errorf("asked %s", asked)
	}
}

// TestRunForwardsSignals sends this process what a terminal or an init system
// would send, while the command runs.
func TestRunForwardsSignals(t *testing.T) {
	f := startAgent(t, map[string]any{
		"AttachEndpoint": &sluicev1.AttachEndpointResponse{Endpoint: endpointWeb()},
		"DetachEndpoint": &sluicev1.DetachEndpointResponse{},
	})
	sent := []syscall.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
	}
	// Those that the tests' own caller ignores, as nohup does, never come.
	sent = slices.DeleteFunc(sent, func(s syscall.Signal) bool { return signal.Ignored(s) })
	a := newApp()
	a.foreground = func() bool { return false }
	a.workloads = &fakeWorkloads{run: func(sig <-chan os.Signal) (int, error) {
		for _, s := range sent {
			if err := syscall.Kill(os.Getpid(), s); err != nil {
				return 0, err
			}
			if got := <-sig; got != s {
				return 0, fmt.Errorf("got %v, want %v", got, s)
			}
		}
		return 130, nil
	}}
	if got := sluice(t, a, "--host", f.host, "run", "--service", "web", "--", "srv"); got.status != 130 {
		t.Errorf("got %+v", got)
	}
}

func TestAgent(t *testing.T) {
	for _, c := range []struct {
		line string
		want agent.Config
	}{
		{"agent", agent.Config{DataDir: "/var/lib/sluice", RunDir: "/run/sluice", GossipPort: 7956, VXLANPort: 4789, Balancer: "auto", Firewall: "open", KeyRotation: 12 * time.Hour}},
		{
			"agent --data-dir /d --run-dir /r --name one --advertise 2001:db8::1 --gossip-port 1 --vxlan-port 2 --balancer nft --firewall respect --key-rotation 0",
			agent.Config{
				DataDir: "/d", RunDir: "/r", Name: "one", Advertise: netip.MustParseAddr("2001:db8::1"),
				GossipPort: 1, VXLANPort: 2, Balancer: "nft", Firewall: "respect", KeyRotation: agent.NoKeyRotation,
			},
		},
	} {
		var got agent.Config
		a := newApp()
		a.runAgent = func(_ context.Context, cfg agent.Config) error {
			cfg.Log.Info("started", "node", "one")
			got = cfg
			return nil
		}
		res := sluice(t, a, strings.Fields(c.line)...)
		if res.status != 0 || res.stdout != "" || !strings.Contains(res.stderr, "msg=started node=one") {
			t.Errorf("%s: %+v", c.line, res)
		}
		if got.Version == "" {
			t.Errorf("%s: no version", c.line)
		}
		got.Log, got.Version = nil, ""
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.line, got, c.want)
		}
	}
}

func TestAgentFails(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("/d is in use by process 7: stop it"), "sluice: run the agent: /d is in use by process 7: stop it\n"},
		{fmt.Errorf("make /d: %w", syscall.EACCES), "sluice: run the agent: make /d: permission denied: run it as root\n"},
	} {
		a := newApp()
		a.runAgent = func(context.Context, agent.Config) error { return c.err }
		if got := sluice(t, a, "agent"); got.status != 1 || got.stderr != c.want {
			t.Errorf("got %+v", got)
		}
	}
}
