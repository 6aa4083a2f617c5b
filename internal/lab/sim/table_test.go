package sim

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	tableNodes = flag.String("table", "", "measure these numbers of nodes, as 10,100, and print the table")
	tableLoss  = flag.String("loss", "0,5,20", "at these losses, in percent")
	tableSplit = flag.Duration("split", time.Minute, "how long the halves are apart")
)

func numbers(t *testing.T, list string) (all []int) {
	t.Helper()
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func measure(t *testing.T, c Case) (row Row) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if row, err = Measure(c); err != nil {
			t.Errorf("%d nodes, loss %.2f: %v", c.Nodes, c.Loss, err)
		}
	})
	return row
}

// A small table has figures in each column that can be, and no false death. The whole one is
// made by "make sim".
func TestTable(t *testing.T) {
	if *tableNodes != "" {
		fmt.Print(TableHead)
		for _, n := range numbers(t, *tableNodes) {
			for _, loss := range numbers(t, *tableLoss) {
				began := time.Now()
				fmt.Print(measure(t, Case{Seed: uint64(n), Nodes: n, Loss: float64(loss) / 100, Split: *tableSplit, Changes: 20}))
				fmt.Fprintf(os.Stderr, "%d nodes, %d %%: %v of wall time\n", n, loss, time.Since(began).Round(time.Second))
			}
		}
		return
	}
	row := measure(t, Case{Seed: 1, Nodes: 6, Loss: 0.05, Split: 10 * time.Second, Changes: 5})
	t.Log(row)
	if len(row.Reach) != 25 || len(row.Dead) != 5 || row.False != 0 || row.Idle.Packets == 0 || row.Agree == 0 || row.Members == 0 {
		t.Errorf("there are figures missing: %+v", row)
	}
	if got := share(row.Dead, 100); got < 500*time.Millisecond || got > 5*time.Second {
		t.Errorf("a dead node was seen after %v", got)
	}
	if got := share(row.Reach, 50); got > 100*time.Millisecond {
		t.Errorf("half of the changes took %v", got)
	}
}
