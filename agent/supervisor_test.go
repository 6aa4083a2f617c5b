package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// boss is a service manager that keeps what it is told.
type boss struct {
	mu   sync.Mutex
	told []string
}

func (b *boss) tell(state string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, state)
	return nil
}

// count is how often a message that begins so was told.
func (b *boss) count(prefix string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, t := range b.told {
		if strings.HasPrefix(t, prefix) {
			n++
		}
	}
	return n
}

func (b *boss) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told)
}

// An agent is ready only after its first round, and says when it stops.
func TestAgentTellsItsSupervisor(t *testing.T) {
	b := &boss{}
	a := newTestAgent(t, 1)
	a.stop()
	a.boss = &supervisor{tell: b.tell, patience: 40 * time.Millisecond}
	release := a.machine.holdUp()
	a.start()
	time.Sleep(50 * time.Millisecond)
	if got := b.all(); len(got) > 0 {
		t.Errorf("before the first round: %q", got)
	}
	release()
	for deadline := time.Now().Add(5 * time.Second); b.count("WATCHDOG=1") < 3 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	a.stop()
	got := b.all()
	if len(got) < 6 || got[0] != "READY=1" || got[1] != "STATUS=in no cluster" || got[len(got)-1] != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
}

// newReporter is one with a status that has seen no round and an API that says fail.
func newReporter(b *boss, fail *error) *reporter {
	return &reporter{
		supervisor: &supervisor{tell: b.tell, patience: 30 * time.Second},
		status:     newStatus(time.Now, nil), now: time.Now, log: slog.New(slog.DiscardHandler),
		check: func(context.Context) error { return *fail },
	}
}

// rounds end every few seconds until ctx does.
func rounds(ctx context.Context, s *status) {
	for sleep(ctx, 5*time.Second) {
		s.round(newStatus(time.Now, nil).last)
	}
}

func TestSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, fail := &boss{}, error(nil)
		r := newReporter(b, &fail)
		ctx, cancel := context.WithCancel(t.Context())
		turning, stopTurning := context.WithCancel(ctx)
		var tasks sync.WaitGroup
		tasks.Go(func() { rounds(turning, r.status) })
		tasks.Go(func() { _ = r.run(ctx) })
		during := func(d time.Duration) int {
			before := b.count("WATCHDOG=1")
			time.Sleep(d)
			synctest.Wait()
			return b.count("WATCHDOG=1") - before
		}
		if n := during(time.Hour); n < 239 || n > 241 {
			t.Errorf("%d signs in an hour, want one each 15 s", n)
		}
		fail = errors.New("no answer")
		if n := during(10 * time.Minute); n > 0 {
			t.Errorf("%d signs while the API does not answer", n)
		}
		if b.count("STATUS=not alive: ask the own API: no answer") != 1 {
			t.Errorf("told %q", b.all())
		}
		fail = nil
		if n := during(time.Minute); n < 4 {
			t.Errorf("%d signs in the minute after the API came back", n)
		}
		stopTurning() // a round that takes long is no reason yet
		if n := during(roundLimit - 10*time.Second); n < 6 {
			t.Errorf("%d signs during a long round", n)
		}
		during(30 * time.Second)
		if n := during(time.Hour); n > 0 || b.count("STATUS=not alive: no round has ended for") != 1 {
			t.Errorf("%d signs while no round ends; told %q", n, b.all())
		}
		cancel()
		tasks.Wait()
	})
}

// The messages reach a real socket, one of the abstract kind too, and the process's
// children see no watchdog that is not theirs.
func TestOwnSupervisor(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "") // so that what is unset below comes back
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("NOTIFY_SOCKET", "")
	if s, err := ownSupervisor(); s != nil || err != nil {
		t.Errorf("without a service manager: %v, %v", s, err)
	}
	dir := t.TempDir()
	for _, name := range []string{filepath.Join(dir, "notify"), "@" + filepath.Join(dir, "notify")} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("NOTIFY_SOCKET", name)
		t.Setenv("WATCHDOG_USEC", "30000000")
		s, err := ownSupervisor()
		if err != nil || s.patience != 30*time.Second {
			t.Fatalf("%+v, %v", s, err)
		}
		if v, set := os.LookupEnv("WATCHDOG_USEC"); set {
			t.Errorf("WATCHDOG_USEC is still %q", v)
		}
		if err := s.tell("READY=1"); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 100)
		if n, err := l.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
			t.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		l.Close()
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := ownSupervisor(); err == nil {
		t.Error("a malformed WATCHDOG_USEC was taken")
	}
}
