package matrix_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
)

const (
	document = "../../../docs/MATRIX.md"
	begin    = "<!-- table -->\n"
	end      = "<!-- end of table -->\n"
)

// The table of the document is the one that the cells are tried by.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(text), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no place for the table", document)
	}
	golden.File(t, document, head+begin+matrix.Table()+end+tail)
}

// Every asker meets every kind of port, and no cell is there twice.
func TestCellsAreComplete(t *testing.T) {
	names, met := map[string]bool{}, map[matrix.Asker]map[matrix.Port]bool{}
	for _, c := range matrix.Cells() {
		if names[c.Name()] {
			t.Errorf("%s is there twice", c.Name())
		}
		names[c.Name()] = true
		if met[c.Asker] == nil {
			met[c.Asker] = map[matrix.Port]bool{}
		}
		met[c.Asker][c.Port] = true
	}
	for _, asker := range []matrix.Asker{matrix.Host, matrix.Itself, matrix.Same, matrix.Other, matrix.Outside, matrix.Forged, matrix.Neighbour} {
		for _, port := range []matrix.Port{matrix.Published, matrix.Unpublished, matrix.OnLoopback, matrix.OnAddress} {
			if !met[asker][port] {
				t.Errorf("%s never dials a port that is %s", asker, port)
			}
		}
	}
}
