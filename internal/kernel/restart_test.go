package kernel_test

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

// counts are the numbers of a kernel's objects, and of files that this process has open.
func counts(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	text := kernelText(t, dir)
	all := fmt.Sprintf("%d lines, %d open files", len(text), len(files))
	for _, object := range []struct{ name, line string }{
		{"devices", ` qdisc `},
		{"addresses", `\binet6? \S+ .*scope`},
		{"routes", `: (unicast|local|broadcast|multicast|anycast|unreachable) `},
		{"neighbours", `lladdr .*PERMANENT`},
		{"forwarding entries", ` dst .*self permanent`},
		{"nft tables", `: table `},
		{"nft sets and maps", `: \t(set|map) `},
		{"lines of nft rules and elements", `: \t\t`},
		{"IPVS servers and backends", `: -[Aa] `},
		{"mounts", `^mount `},
		{"settings of the host remembered", `^remembered: `},
	} {
		line, n := regexp.MustCompile(object.line), 0
		for _, have := range text {
			if line.MatchString(have) {
				n++
			}
		}
		all += fmt.Sprintf(", %d %s", n, object.name)
	}
	return all
}

// An agent that starts again has nothing to do, and leaves nothing of its own.
func TestRestarts(t *testing.T) {
	const restarts = 50
	dir := runDir(t)
	p := holdable(planOf(t, "three networks"))
	inHost(t, func() {
		ownersHost(t)
		applied(t, dir, p)
		text, first := stillText(t, dir), counts(t, dir)
		goroutines := runtime.NumGoroutine()
		t.Log(first)
		for restart := 2; restart <= restarts; restart++ {
			k, err := kernel.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			report := k.Apply(t.Context(), p)
			if len(report.Done)+len(report.Failed) > 0 {
				t.Errorf("restart %d: done %v, failed %v, want nothing to do", restart, report.Done, report.Failed)
			}
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		if last := counts(t, dir); last != first {
			t.Errorf("after %d restarts there are other numbers:\n  - %s\n  + %s", restarts, first, last)
		}
		if diff := differs(t, dir, text); diff != "" {
			t.Errorf("after %d restarts the kernel differs:%s", restarts, diff)
		}
		for range 20 { // a thread that came home ends a moment later
			if runtime.NumGoroutine() <= goroutines {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if now := runtime.NumGoroutine(); now > goroutines {
			t.Errorf("%d goroutines, after the first start %d", now, goroutines)
		}
	})
}
