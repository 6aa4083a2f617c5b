package sim

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh/gossip"
)

var (
	vigilNodes = flag.String("vigil", "", "let these numbers of nodes, as 10,100, watch each other, and print the table")
	vigilFor   = flag.Duration("vigil-for", 2*time.Minute, "for so long")
)

func keepVigil(t *testing.T, c VigilCase) (v Vigil) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if v, err = KeepVigil(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	})
	return v
}

// The usual detection takes nobody for dead who answers, in good weather and in bad, or whose process stands
// still for a second, and finds who does not answer.
func TestVigil(t *testing.T) {
	if *vigilNodes != "" {
		vigilTable(t)
		return
	}
	for _, c := range []VigilCase{
		{Seed: 1, Nodes: 8, Trouble: TroubleNone, For: 20 * time.Second},
		{Seed: 2, Nodes: 8, Loss: 0.05, Trouble: TroubleNone, For: 20 * time.Second},
		{Seed: 3, Nodes: 8, Trouble: TroubleSlow, For: 20 * time.Second},
		{Seed: 4, Nodes: 8, Trouble: TroublePauses, For: 20 * time.Second},
	} {
		v := keepVigil(t, c)
		if v.False != 0 || v.Stopped != 0 || len(v.Dead) != 7 || v.Dead[6] > 2500*time.Millisecond {
			t.Errorf("%+v: %+v", c, v)
		}
	}
	// Three of six: nobody is left who could confirm what three found.
	if v := keepVigil(t, VigilCase{Seed: 5, Nodes: 6, Off: 3, Trouble: TroubleNone, For: time.Second}); v.False != 0 || len(v.Dead) != 9 || v.Dead[8] > 3500*time.Millisecond {
		t.Errorf("half of them dead: %+v", v)
	}
	if v := keepVigil(t, VigilCase{Seed: 1, Nodes: 4, Trouble: TroublePauses, Detection: gossip.LAN(), For: 10 * time.Second}); v.False != 0 || len(v.Dead) != 3 {
		t.Errorf("LAN: %+v", v)
	}
}

func vigilTable(t *testing.T) {
	t.Helper()
	fmt.Print("| nodes | trouble | loss | detection | false deaths | stopped ones | dead seen: p50 | max | packets/s | bytes/s |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, n := range numbers(t, *vigilNodes) {
		for _, trouble := range []Trouble{TroubleNone, TroublePauses, TroubleSlow} {
			for _, loss := range numbers(t, *tableLoss) {
				for _, d := range []struct {
					name string
					gossip.Detection
				}{{"fast", gossip.Fast()}, {"LAN", gossip.LAN()}} {
					began := time.Now()
					v := keepVigil(t, VigilCase{Seed: uint64(n), Nodes: n, Loss: float64(loss) / 100, Trouble: trouble, Detection: d.Detection, For: *vigilFor})
					fmt.Printf("| %d | %s | %d %% | %s | %d | %d | %.2f s | %.2f s | %d | %d |\n", n, trouble, loss, d.name, v.False, v.Stopped,
						share(v.Dead, 50).Seconds(), share(v.Dead, 100).Seconds(), v.Sent.Packets+v.Sent.StreamPackets, v.Sent.Bytes+v.Sent.StreamBytes)
					fmt.Fprintf(os.Stderr, "%v of wall time\n", time.Since(began).Round(time.Second))
				}
			}
		}
	}
}
