package kernel_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// A deed is what one process does to a host: apply a golden state's plan, or reset.
type deed struct {
	Dir   string
	Plan  string // "": reset
	IPVS  bool   // with what needs IPVS
	Kill  int    // at which stage the process ends itself; 0: at none
	At    string // at the first stage of this name, likewise
	Pin   string // the namespace to pin first
	Path  string // where programs are; "": where they always are
	stage []string
}

// victimVariable tells TestVictim that it is one, and what to do.
const victimVariable = "SLUICE_TEST_VICTIM"

// TestVictim is the process that is killed: it does one deed, tells each stage on
// its standard output, and at the given one sends itself SIGKILL. By itself it
// does nothing.
func TestVictim(t *testing.T) {
	order := os.Getenv(victimVariable)
	if order == "" {
		return
	}
	var d deed
	if err := json.Unmarshal([]byte(order), &d); err != nil {
		t.Fatal(err)
	}
	if d.Path != "" {
		t.Setenv("PATH", d.Path)
	}
	d.do(t, func(stage string) {
		fmt.Println(stagePrefix + stage)
		if d.stage = append(d.stage, stage); len(d.stage) == d.Kill || stage == d.At {
			if d.At != "" {
				time.Sleep(100 * time.Millisecond) // the program has got its text
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // no further
		}
	})
}

const stagePrefix = "stage: "

// do is the deed as another process than the one before would do it. It returns what
// was done.
func (d deed) do(t *testing.T, stage func(string)) []kernel.Op {
	t.Helper()
	k, err := kernel.New(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	kernel.SetStages(k, stage)
	if d.Pin != "" {
		if err := k.Pin(pinnedLate, d.Pin); err != nil {
			t.Fatal(err)
		}
	}
	var report kernel.Report
	if d.Plan == "" {
		reset, err := k.Reset(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		report = reset.Report
	} else {
		p := d.plan(t)
		report = k.Apply(t.Context(), p)
		if ops, err := k.Diff(t.Context(), p); len(report.Failed) == 0 && (err != nil || len(ops) > 0) {
			t.Errorf("after one round there is still to do: %v, %v", ops, err)
		}
	}
	for _, f := range report.Failed {
		t.Errorf("%v", f)
	}
	return report.Done
}

// pin makes namespaces for the plan's endpoints that have none, as attaching would.
func (d deed) pin(t *testing.T) {
	t.Helper()
	if d.Plan == "" {
		return
	}
	k, err := kernel.New(d.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	pinWorkloads(t, k, d.plan(t))
}

func (d deed) plan(t *testing.T) *plan.Plan {
	t.Helper()
	p := planOf(t, d.Plan)
	if !d.IPVS {
		p = withoutIPVS(p)
	}
	return p
}

const pinnedLate = "ep-d0000000000000ff"

// inChild does the deed in a process of its own, in the calling thread's
// namespace, and returns the stages that it reached.
func (d deed) inChild(t *testing.T) []string {
	t.Helper()
	order, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestVictim$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), victimVariable+"="+string(order))
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != (d.Kill > 0 || d.At != "") || !killed && err != nil {
		t.Fatalf("the process that should end at stage %d: %v\n%s", d.Kill, err, out.String())
	}
	var stages []string
	for line := range strings.Lines(out.String()) {
		if stage, ok := strings.CutPrefix(line, stagePrefix); ok {
			stages = append(stages, strings.TrimSpace(stage))
		}
	}
	return stages
}

// death is a host before, the deed in whose midst the process dies, and what the
// next process does.
type death struct {
	name   string
	before string // golden state
	deed   string // golden state, "" for a reset
	pins   bool   // the deed begins with pinning a workload that no plan knows
	next   string // likewise
	ipvs   bool
	others int // so many stages are tried besides one of each kind
}

// deaths are the ways that a host goes through. Each thing that can be made,
// changed and removed is in one of them.
func deaths() []death {
	return []death{
		{name: "fresh", before: "nothing", deed: "three networks", next: "three networks", others: 2},
		{name: "other state", before: "three networks", deed: "underlay IPv6", next: "underlay IPv6", others: 2},
		{name: "less", before: "three networks", deed: "draining", next: "draining", others: 2},
		{name: "balanced by nft", before: "two services" + withNFT, deed: "draining" + withNFT, next: "draining" + withNFT, others: 2},
		{name: "wish has changed", before: "nothing", deed: "three networks", next: "two services", others: 2},
		{name: "all goes", before: "three networks", deed: "nothing", next: "nothing", others: 2},
		{name: "pinned and not recorded", before: "one endpoint local", deed: "one endpoint local", pins: true, next: "one endpoint local", others: 5},
		{name: "reset", before: "three networks", deed: "", next: "", others: 2},
	}
}

// onHost runs f in a fresh host that holds the state before.
func (d death) onHost(t *testing.T, f func(dir string)) {
	t.Helper()
	dir := runDir(t)
	inHost(t, func() {
		ownersHost(t)
		d.as(dir, d.before).pin(t)
		d.as(dir, d.before).do(t, nil)
		f(dir)
	})
}

// as is the deed of a host's next process.
func (d death) as(dir, state string) deed { return deed{Dir: dir, Plan: state, IPVS: d.ipvs} }

// interrupted is what the host holds after a process died at a stage and the next
// one did its work; kill 0 lets it live. It returns the stages that the first reached.
func (d death) interrupted(t *testing.T, kill int, check func(dir string)) (stages []string) {
	t.Helper()
	d.onHost(t, func(dir string) {
		first := d.as(dir, d.deed)
		first.Kill = kill
		first.pin(t)
		if d.pins {
			w, err := kernel.NewWorkload()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			first.Pin = w.Path()
		}
		stages = first.inChild(t)
		next := d.as(dir, d.next)
		next.pin(t)
		next.do(t, nil)
		check(dir)
	})
	return stages
}

// everyStage is a variable that has all stages tried, which takes many minutes.
const everyStage = "SLUICE_TEST_EVERY_STAGE"

// chosen are the stages to die at, of those that at is true of: of each kind not in
// seen the first, and evenly so many others.
func (d death) chosen(stages []string, seen map[string]bool, at func(stage string) bool) []int {
	var all, list []int
	for i, s := range stages {
		if at(s) {
			all = append(all, i+1)
		}
	}
	every := max(len(all)/d.others, 1)
	if os.Getenv(everyStage) != "" {
		every = 1
	}
	for i, kill := range all {
		kind := kindOfStage(stages[kill-1])
		if d.deed == "" && !strings.HasPrefix(kind, "before ") && !strings.HasPrefix(kind, "after ") {
			kind = "reset: " + kind // what is not an op may be done at several places
		}
		if !seen[kind] || i%every == every/2 {
			list = append(list, kill)
		}
		seen[kind] = true
	}
	return list
}

// kindOfStage is a stage without what it happens to: "before add veth".
func kindOfStage(stage string) string {
	words := strings.Fields(stage)
	if len(words) < 4 || words[0] != "before" && words[0] != "after" {
		return stage
	}
	kind := words[:2]
	if rest := words[3:]; rest[0] == "nft" {
		kind = append(kind, rest[:2]...)
	} else {
		kind = append(kind, rest[0])
	}
	return strings.Join(kind, " ")
}

// Wherever the process dies, the next one makes what it would have made, and
// nothing else is there.
func TestKilled(t *testing.T) { dieAll(t, deaths(), func(string) bool { return true }) }

// The same at what needs IPVS.
func TestKilledAtIPVS(t *testing.T) {
	feature.Need(t, feature.IPVS)
	dieAll(t, []death{
		{name: "IPVS fresh", before: "nothing", deed: "two services", next: "two services", ipvs: true, others: 2},
		{name: "IPVS changes", before: "two services", deed: "draining", next: "draining", ipvs: true, others: 2},
		{name: "IPVS goes", before: "two services", deed: "no service", next: "no service", ipvs: true, others: 2},
	}, func(stage string) bool {
		return strings.Contains(stage, ": ipvs ") || strings.Contains(stage, ": backend ")
	})
}

// A program that the process had started does not go on after it: it would load
// rules over those of the next process.
func TestKilledWithItsPrograms(t *testing.T) {
	slow := t.TempDir()
	script := "#!/bin/sh\nsleep 0.5\nPATH=" + os.Getenv("PATH") + " exec nft \"$@\"\n"
	if err := os.WriteFile(filepath.Join(slow, "nft"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d := death{name: "slow nft", before: "nothing", deed: "three networks", next: "no service"}
	d.onHost(t, func(dir string) {
		first := d.as(dir, d.deed)
		first.pin(t)
		first.Path = slow + ":" + os.Getenv("PATH")
		first.At = "nft started"
		first.inChild(t)
		next := d.as(dir, d.next)
		next.do(t, nil)
		time.Sleep(time.Second) // the dead one's program would be done by then
		if done := next.do(t, nil); len(done) > 0 {
			t.Errorf("after a second the kernel had changed: %v", done)
		}
	})
}

// dieAll lets a process die at chosen stages of each death that at is true of.
func dieAll(t *testing.T, deaths []death, at func(stage string) bool) {
	t.Helper()
	total, tried := 0, 0
	seen := map[string]bool{}
	for _, d := range deaths {
		var want []string
		stages := d.interrupted(t, 0, func(dir string) { want = stillText(t, dir) })
		chosen := d.chosen(stages, seen, at)
		if len(chosen) == 0 {
			t.Fatalf("%s: none of the %d stages is tried", d.name, len(stages))
		}
		t.Logf("%s: %d stages, %d tried", d.name, len(stages), len(chosen))
		total, tried = total+len(stages), tried+len(chosen)
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			for _, kill := range chosen {
				d.interrupted(t, kill, func(dir string) {
					if diff := differs(t, dir, want); diff != "" {
						t.Errorf("killed at stage %d (%s): the next process left another kernel (- uninterrupted, + interrupted):%s", kill, stages[kill-1], diff)
					}
				})
			}
		})
	}
	t.Logf("%d stages in all, of %d kinds; %d tried", total, len(seen), tried)
}

// differs tells how what the host holds differs from want. It looks again for a
// while: the kernel does some of its part a moment later. Lines that apart is true
// of do not count.
func differs(t *testing.T, dir string, want []string, apart ...func(line string) bool) string {
	t.Helper()
	var have []string
	for _, left := range apart {
		want = slices.DeleteFunc(want, left)
	}
	for range 10 {
		have = kernelText(t, dir)
		for _, left := range apart {
			have = slices.DeleteFunc(have, left)
		}
		if slices.Equal(want, have) {
			return ""
		}
		time.Sleep(100 * time.Millisecond)
	}
	for i := range want { // lines that both have, in another order
		if i < len(have) && want[i] != have[i] {
			return fmt.Sprintf("line %d:\n  - %s\n  + %s", i, want[i], have[i]) + only("-", want, have) + only("+", have, want)
		}
	}
	return only("-", want, have) + only("+", have, want)
}

// only lists the lines of a that are not in b.
func only(sign string, a, b []string) (list string) {
	for _, line := range a {
		if !slices.Contains(b, line) {
			list += "\n  " + sign + " " + line
		}
	}
	return list
}
