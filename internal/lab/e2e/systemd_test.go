package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/footprint"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/vm"
)

const (
	unitName = "sluice.service"
	unitRate = 100              // requests a second
	times    = 5                // each that the agent is restarted and killed
	watched  = 75 * time.Second // WatchdogSec, and starting again, with room for a slow machine
)

// TestSystemd is the agent as a service of systemd, in a machine that systemd has
// started: restarted, killed and frozen under requests, none of which may fail.
func TestSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getenv(vm.EnvInside) != "1" {
		bootSystemd(t)
		return
	}
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...) // which also loads the modules: their settings are there before
	installUnit(t)
	var before []string
	c := startWithUnit(t, func(ctx context.Context, c *cluster.Cluster) (err error) {
		n1 := c.Nodes[0]
		until(t, "the addresses of n1 are no longer tentative", func() error { return tentative(ctx, n1) })
		before, err = footprint.Take(ctx, n1.RunDir(), n1.Run)
		return err
	})
	s := &service{t: t, c: c, node: c.Node("n1")}
	s.sandboxes = s.mounted()
	s.rights()
	began := time.Now()
	l := send(t, c.Client.Space, load.Spec{Rate: unitRate, Wait: answerIn, Targets: s.targets()})
	s.hold()
	s.interrupt()
	if _, err := cluster.Systemctl(t.Context(), "stop", unitName); err != nil {
		t.Error(err)
	}
	time.Sleep(5 * time.Second)
	s.unharmed("stopped")
	whole(t, "agent restarted, killed, frozen and stopped by systemd", l, began)
	s.reset(before)
}

// bootSystemd runs the test again where systemd is the first process.
func bootSystemd(t *testing.T) {
	t.Helper()
	if os.Getenv(vm.EnvInside) == "1" {
		t.Fatal("this test boots a machine of its own: run it outside of one")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := filepath.Join(t.TempDir(), "sluicevm")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", runner, "../cmd/sluicevm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build runner: %v\n%s", err, said)
	}
	score, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", unitFile).CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(score)), "\n")
	t.Logf("systemd-analyze security (%v): %s", err, lines[len(lines)-1])
	// -1: what takes seconds there, as the watchdog's patience does, must not depend on how busy this machine is.
	c := exec.CommandContext(t.Context(), runner, "-1", "-systemd", "-t", "1200", self, "-test.run=^TestSystemd$", "-test.v")
	c.Env = append(os.Environ(), "SLUICE_BIN="+program(t))
	c.Stdout, c.Stderr = t.Output(), t.Output()
	if err := c.Run(); err != nil {
		t.Error(err)
	}
}

// installUnit puts program and unit where an administrator does.
func installUnit(t *testing.T) {
	t.Helper()
	for from, to := range map[string]string{program(t): "/usr/local/bin/sluice", unitFile: "/etc/systemd/system/" + unitName} {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	flags := "AGENT_FLAGS=--name n1 --advertise 192.168.50.11\n"
	if err := os.WriteFile("/etc/default/sluice", []byte(flags), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"groupadd", "-r", "-f", "sluice"},
		{"chmod", "644", "/etc/systemd/system/" + unitName},
		{"systemctl", "daemon-reload"},
		{"systemd-analyze", "verify", unitName},
	} {
		said, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
		if err != nil || len(said) > 0 {
			t.Fatalf("%q: %v\n%s", args, err, said)
		}
	}
}

// startWithUnit starts a cluster whose n1 is this machine, with an endpoint of web on each node.
func startWithUnit(t *testing.T, prepared func(context.Context, *cluster.Cluster) error) *cluster.Cluster {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Config{
		Sluice: program(t), Workload: []string{self, "serve"}, Progress: t.Logf, Prepared: prepared, Unit: unitName,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, journal())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Logs() + journal())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Populate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(t.Context(), c.Node("n1"), "web", "web.1"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		until(t, n.Name+" knows web.1 and its kernel too", func() error {
			for _, e := range endpointsOf(t, n).GetEndpoints() {
				if e.GetName() == "web.1" && len(e.GetAttachments()) == 2 {
					_, err := n.Sluice(t.Context(), "plan", "--diff")
					return err
				}
			}
			return errors.New("it is not there yet")
		})
	}
	return c
}

// journal is what systemd and the agent said last.
func journal() string {
	said, err := exec.Command("journalctl", "--no-pager", "-n", "60", "-u", unitName).CombinedOutput()
	return fmt.Sprintf("--- journal of %s (%v)\n%s", unitName, err, said)
}

// service is the agent of n1 under systemd.
type service struct {
	t         *testing.T
	c         *cluster.Cluster
	node      *cluster.Node
	sandboxes map[string]uint64      // inodes of the namespaces, by name
	held      map[string]*probe.Flow // connections from before anything happened
}

func (s *service) targets() []load.Target {
	var targets []load.Target
	for _, n := range []*cluster.Node{s.node, s.c.Node("n2")} {
		for _, f := range families() {
			at := netip.AddrPortFrom(n.Addr(f), cluster.Published)
			targets = append(targets, ways("client -> "+at.String(), at, s.c.Client.Addr(f), "web.1", "web.2", "web.3")...)
		}
	}
	return targets
}

// mounted are the sandboxes that this process, which is no child of the unit, sees.
func (s *service) mounted() map[string]uint64 {
	s.t.Helper()
	dir := filepath.Join(s.node.RunDir(), "netns")
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	found := map[string]uint64{}
	for _, e := range entries {
		var fs unix.Statfs_t
		var st unix.Stat_t
		path := filepath.Join(dir, e.Name())
		if err := errors.Join(unix.Statfs(path, &fs), unix.Stat(path, &st)); err != nil || fs.Type != unix.NSFS_MAGIC {
			s.t.Errorf("%s is no namespace (%v)", path, err)
		}
		found[e.Name()] = st.Ino
	}
	return found
}

// show are properties of the unit at one moment, in the order of their names.
func (s *service) show(properties string) []string {
	s.t.Helper()
	said, err := cluster.Systemctl(s.t.Context(), "show", "-p", properties, unitName)
	if err != nil {
		s.t.Fatal(err)
	}
	values := strings.Split(said, "\n")
	slices.Sort(values)
	for i, v := range values {
		_, values[i], _ = strings.Cut(v, "=")
	}
	return values
}

// rights sees that the hardening leaves the agent what it needs, and no mount namespace.
func (s *service) rights() {
	s.t.Helper()
	first, err1 := os.Readlink("/proc/1/ns/mnt")
	own, err2 := os.Readlink("/proc/" + s.show("MainPID")[0] + "/ns/mnt")
	if err := errors.Join(err1, err2); err != nil || first != own {
		s.t.Errorf("the agent is in mount namespace %s, systemd in %s, %v", own, first, err)
	}
	group, err := exec.CommandContext(s.t.Context(), "stat", "-c", "%G", filepath.Join(s.node.RunDir(), "sluice.sock")).Output()
	if got := strings.TrimSpace(string(group)); err != nil || got != "sluice" {
		s.t.Errorf("the socket's group is %q, %v", got, err)
	}
	// A process of another user, in a namespace of its own.
	stranger := exec.CommandContext(s.t.Context(), "unshare", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "1000")
	if err := stranger.Start(); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, "the stranger sleeps", func() error {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", stranger.Process.Pid))
		if err == nil && string(name) != "sleep\n" {
			err = fmt.Errorf("it is %q", name)
		}
		return err
	})
	_, err = s.node.Sluice(s.t.Context(), "endpoint", "attach", "--service", "api", "--name", "stranger", "--pid", fmt.Sprint(stranger.Process.Pid))
	if err != nil {
		s.t.Error(err)
	} else if _, err = s.node.Sluice(s.t.Context(), "endpoint", "detach", "stranger"); err != nil {
		s.t.Error(err)
	}
	_ = stranger.Process.Kill()
	_ = stranger.Wait() // it was killed
}

// hold opens connections through n1 to the endpoint of each node.
func (s *service) hold() {
	s.t.Helper()
	client := probe.Client{Place: s.c.Client, Wait: answerIn}
	s.held = map[string]*probe.Flow{}
	for _, f := range families() {
		for tries := 0; len(s.held)%3 != 0 || tries == 0; tries++ {
			flow, err := client.Open("tcp", netip.AddrPortFrom(s.node.Addr(f), cluster.Published))
			if err != nil {
				s.t.Fatal(err)
			}
			a, err := flow.Ask()
			key := fmt.Sprintf("%s to %s", f, a.Name)
			if err != nil || tries > 30 {
				s.t.Fatalf("connections %v; the last: %v", s.held, err)
			}
			if s.held[key] != nil {
				flow.Close()
				continue
			}
			s.held[key] = flow
		}
	}
	s.t.Cleanup(func() {
		for _, flow := range s.held {
			flow.Close()
		}
	})
}

// interrupt does to the agent what ends or freezes it.
func (s *service) interrupt() {
	s.t.Helper()
	for i := range times {
		s.again(fmt.Sprintf("restarted %d", i+1), answerIn*3, "restart")
	}
	for i := range times {
		s.again(fmt.Sprintf("killed %d", i+1), answerIn*3, "kill", "-s", "KILL")
	}
	s.again("frozen", watched, "kill", "-s", "STOP")
	said, err := exec.CommandContext(s.t.Context(), "journalctl", "--no-pager", "-u", unitName).CombinedOutput()
	if err != nil || !strings.Contains(string(said), "Watchdog timeout") {
		s.t.Errorf("systemd has not seen the frozen agent (%v)", err)
	}
	if err := s.c.Settle(s.t.Context()); err != nil {
		s.t.Error(err)
	}
	until(s.t, "the unit's status is right", func() error {
		if got := s.show("StatusText")[0]; !strings.HasPrefix(got, "in a cluster of 3, 3 services, 4 endpoints") {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// again has systemctl do something to the agent, and waits until another one is ready.
func (s *service) again(what string, limit time.Duration, args ...string) {
	s.t.Helper()
	before, began := s.show("MainPID")[0], time.Now()
	if _, err := cluster.Systemctl(s.t.Context(), append(args, unitName)...); err != nil {
		s.t.Fatal(err)
	}
	for {
		now := s.show("ActiveState,MainPID")
		if now[0] == "active" && now[1] != before {
			break
		}
		if time.Since(began) > limit {
			s.t.Fatalf("%s: after %s the unit is %v, before it was %s", what, limit, now, before)
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Logf("%s: ready again after %s", what, time.Since(began).Round(10*time.Millisecond))
	if _, err := s.node.Sluice(s.t.Context(), "plan", "--diff"); err != nil {
		s.t.Errorf("%s: %v", what, err)
	}
	s.unharmed(what)
}

// unharmed sees that sandboxes and connections are those from before.
func (s *service) unharmed(what string) {
	s.t.Helper()
	if diff := cmp.Diff(s.sandboxes, s.mounted()); diff != "" {
		s.t.Errorf("%s: the sandboxes differ (-before +after):\n%s", what, diff)
	}
	for name, flow := range s.held {
		if a, err := flow.Ask(); err != nil || !strings.HasSuffix(name, " "+a.Name) {
			s.t.Errorf("%s: the connection over %s answers %q, %v", what, name, a.Name, err)
			delete(s.held, name)
		}
	}
}

// reset wants the machine to be as it was before the agent ever ran.
func (s *service) reset(before []string) {
	s.t.Helper()
	said, err := s.node.Sluice(s.t.Context(), "reset", "--yes")
	if err != nil {
		s.t.Fatal(err)
	}
	after, err := footprint.Take(s.t.Context(), s.node.RunDir(), s.node.Run)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" || !slices.ContainsFunc(before, func(l string) bool { return strings.Contains(l, "eth0") }) {
		s.t.Errorf("after a reset the machine differs (-before +after):\n%s\n%s", diff, said)
	}
	for _, dir := range []string{s.node.RunDir(), s.node.DataDir()} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			s.t.Errorf("%s holds %v, %v, want it empty", dir, left, err)
		}
	}
}
