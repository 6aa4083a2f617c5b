package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// logbook is a log that can be read while it is written.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// What somebody changed is put back at once, logged with who did it, and counted;
// what the agent brings anew is not.
func TestRepairsAreToldAndCounted(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.stop()
	var log logbook
	a.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	a.start()
	a.create("db", "8081:80")
	if n := a.status().GetRepairs(); n != 0 {
		t.Fatalf("%d repairs before anybody changed anything", n)
	}
	began := time.Now()
	a.machine.sabotage(t, "nft (pid 7)", load("inet"), load("netdev"))
	eventually(t, "both objects are counted", func() bool { return a.status().GetRepairs() == 2 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("the repair took %s", took)
	}
	for _, want := range []string{
		`msg=repaired op="add host: nft table inet sluice" by="nft (pid 7)"`,
		`msg=repaired op="add host: nft table netdev sluice" by="nft (pid 7)"`,
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
	a.machine.sabotage(t, "")
	a.machine.sabotage(t, "", load("inet"))
	eventually(t, "the third is counted", func() bool { return a.status().GetRepairs() == 3 })
	if !strings.Contains(log.String(), "by=unknown") {
		t.Errorf("the log names somebody:\n%s", log.String())
	}
}

func load(family string) kernel.Op {
	return kernel.Op{Verb: kernel.Add, Sandbox: plan.HostSandbox, Object: kernel.TableLoad{Table: &plan.Table{Family: family}}}
}

// Only what the round before had done, or had no need to do, is a repair.
func TestRepairOf(t *testing.T) {
	both := kernel.Report{Done: []kernel.Op{load("inet"), load("netdev")}}
	failed := func(object string) kernel.Report {
		return kernel.Report{Failed: []kernel.Failure{{Object: object, Err: errors.New("no")}}}
	}
	for _, c := range []struct {
		name   string
		before kernel.Report
		rev    uint64
		bridge string
		want   int
	}{
		{"same plan", kernel.Report{}, 1, "br0", 2},
		{"same plan, repaired again", both, 1, "br0", 2},
		{"newer snapshot", kernel.Report{}, 2, "br0", 0},
		{"another bridge", kernel.Report{}, 1, "br1", 0},
		{"one had failed", failed("host: nft table inet sluice"), 1, "br0", 1},
		{"the sandbox had failed", failed("host: namespace host"), 1, "br0", 0},
		{"another sandbox had failed", failed("ingress-sbox: namespace ingress"), 1, "br0", 2},
	} {
		var r repair
		if got := r.of(1, mesh.Local{OwnBridges: []string{"br0"}}, c.before); len(got) > 0 {
			t.Errorf("%s: the first round repaired %v", c.name, got)
		}
		if got := r.of(c.rev, mesh.Local{OwnBridges: []string{c.bridge}}, both); len(got) != c.want {
			t.Errorf("%s: repaired %v, want %d", c.name, got, c.want)
		}
	}
}

// A fight costs a round a second; one who changes something now and then is
// answered at once.
func TestRestraint(t *testing.T) {
	var r restraint
	now := time.Unix(1000, 0)
	var pauses []string
	for _, step := range []struct {
		later  time.Duration
		worked bool
	}{
		{0, true},
		{0, true},
		{0, true},
		{0, true},
		{0, true},
		{0, true}, // at once, again and again
		{0, false},
		{0, true},
		{3 * time.Second, true},
		{3 * time.Second, true},
	} {
		now = now.Add(r.pause + step.later)
		pauses = append(pauses, r.after(now, step.worked).String())
	}
	if got, want := strings.Join(pauses, " "), "125ms 250ms 500ms 1s 1s 1s 0s 125ms 125ms 125ms"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
