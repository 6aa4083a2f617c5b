package matrix_test

import (
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
)

// The page's tables are those that dockerd is measured by.
func TestDockerDocument(t *testing.T) {
	golden.Table(t, "../../../docs/DOCKER.md", matrix.DockerTable())
}

// A cell differs for one reason or not at all, and every part of a reason has cells.
func TestDifferences(t *testing.T) {
	met := map[int]int{}
	for _, d := range matrix.Daemons() {
		for _, c := range matrix.Cells() {
			does, numbers := matrix.Docker(d, c)
			switch {
			case len(numbers) > 1:
				t.Errorf("%s, %s: differs by %v", d, c.Name(), numbers)
			case len(numbers) == 1 && does == c.Want:
				t.Errorf("%s, %s: difference %d is none: both have %q", d, c.Name(), numbers[0], does)
			case len(numbers) == 1:
				met[numbers[0]]++
			}
		}
	}
	for i, difference := range matrix.Differences() {
		if difference.Name == "" || difference.Docker == "" || difference.Sluice == "" {
			t.Errorf("difference %d says no reason", i+1)
		}
		want := 0
		for _, w := range difference.Where {
			n := w.Cells()
			if n == 0 {
				t.Errorf("%s: no cell is %+v", difference.Name, w)
			}
			want += n
		}
		if met[i+1] != want {
			t.Errorf("%s: %d cells, its parts have %d", difference.Name, met[i+1], want)
		}
	}
}
