package sim

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

var (
	oneSeed = flag.Uint64("seed", 0, "play the schedule of this seed, and print it")
	budget  = flag.Duration("budget", 20*time.Second, "for how long fresh schedules are played")
	count   = flag.Int("count-seeds", 0, "how many fresh schedules are played; 0: as many as the budget allows")
	least   = flag.Int("least", 3, "nodes of a schedule, at least")
	most    = flag.Int("most", 25, "nodes of a schedule, at most")
	logged  = flag.Bool("log", false, "print what the nodes log")
)

// agreeWithin is how long after the last fault all nodes must hold the same bytes.
const agreeWithin = 60 * time.Second

func play(t *testing.T, seed uint64) (res Result, err error) {
	t.Helper()
	s := Plan(seed, *least, *most)
	o := Options{}
	if *logged {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(t *testing.T) { res, err = Run(o, s, agreeWithin) })
	if err != nil {
		t.Errorf("%v\n%vreplay: go test ./internal/lab/sim -run '^TestSchedules$' -seed %d -least %d -most %d -log", err, s, seed, *least, *most)
	}
	return res, err
}

// Whatever breaks, in the end all nodes hold the same, and nothing that was promised is lost.
func TestSchedules(t *testing.T) {
	if *oneSeed != 0 {
		res, err := play(t, *oneSeed)
		t.Logf("%+v, %v", res, err)
		return
	}
	began := time.Now()
	for i := 0; (*count == 0 && time.Since(began) < *budget) || i < *count; i++ {
		seed := rand.Uint64N(1 << 40)
		wall := time.Now()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			res, err := play(t, seed)
			t.Logf("wall %v: %+v, %v", time.Since(wall).Round(time.Millisecond), res, err)
		})
	}
}
