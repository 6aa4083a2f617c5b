package sim

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	oneSeed  = flag.Uint64("seed", 0, "play the schedule of this seed, and print it")
	draw     = flag.Uint64("draw", 0, "begin with the number that the run to play again began with")
	budget   = flag.Duration("budget", 20*time.Second, "for how long fresh schedules are played")
	count    = flag.Int("count-seeds", 0, "how many fresh schedules are played; 0: as many as the budget allows")
	least    = flag.Int("least", 3, "nodes of a schedule, at least")
	most     = flag.Int("most", 25, "nodes of a schedule, at most")
	removals = flag.Bool("removals", false, "let every schedule have removals, and not only a third of them")
	logged   = flag.Bool("log", false, "print what the nodes log")
)

// agreeWithin is how long after the last fault all nodes must hold the same bytes.
const agreeWithin = 6 * time.Second

// agreeRemoved is the same where nodes were removed on both sides of splits, several times: then
// they have to find their way to the newest keys first, over nodes that have them.
const agreeRemoved = 30 * time.Second

// play plays a schedule in this process.
func play(t *testing.T, seed uint64) (res Result, err error) {
	t.Helper()
	s := Plan(seed, *least, *most)
	s.Removals = s.Removals || *removals
	o, within := Options{}, agreeWithin
	if s.Removals {
		within = agreeRemoved
	}
	if *logged {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(*testing.T) { res, err = Run(o, s, within) })
	if err != nil {
		t.Errorf("%v\n%v", err, s)
	}
	return res, err
}

// one plays a schedule in a process of its own, and tells how to play it again.
func one(t *testing.T, seed uint64) {
	t.Helper()
	began := time.Now()
	output, err := replay(t, seed, uint32(*draw))
	var drew, trace uint64
	fmt.Sscanf(output, "drew %d, trace %d", &drew, &trace)
	if err != nil {
		t.Errorf("%v\n%sreplay: CGO_ENABLED=0 go test ./internal/lab/sim -run '^TestSchedules$' -v -log -seed %d -draw %d -least %d -most %d -removals=%v", err, output, seed, drew, *least, *most, *removals)
		return
	}
	t.Logf("wall %v: %s", time.Since(began).Round(time.Millisecond), output)
}

// Whatever breaks, in the end all nodes hold the same, and nothing that was promised is lost.
func TestSchedules(t *testing.T) {
	if os.Getenv(exactEnv) != "" {
		if *draw != 0 && uint32(*draw) != drawn {
			os.Exit(otherDraw)
		}
		res, err := play(t, *oneSeed)
		fmt.Printf("drew %d, trace %d: %+v, %v\n", drawn, res.Trace, res, err)
		return
	}
	if *oneSeed != 0 {
		one(t, *oneSeed)
		return
	}
	began := time.Now()
	for i := 0; (*count == 0 && time.Since(began) < *budget) || i < *count; i++ {
		seed := 1 + rand.Uint64N(1<<40)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { one(t, seed) })
	}
}

// Schedules that failed once do not any more.
func TestFailedSeeds(t *testing.T) {
	every := *removals
	defer func() { *removals = every }()
	for _, c := range []struct {
		seed     uint64
		removals bool
		why      string
	}{
		{614327515563, false, "an empty list and none, which are sent alike, were taken for two things"},
		{436089019449, true, "who joined again gossiped by a key of its former time"},
		{983842758234, true, "nodes that later keys had shut out took each other's word that they were members"},
	} {
		t.Run(fmt.Sprint(c.seed), func(t *testing.T) {
			t.Log(c.why)
			*removals = c.removals
			one(t, c.seed)
		})
	}
}
