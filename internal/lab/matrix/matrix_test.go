package matrix_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
)

// The table of the document is the one that the cells are tried by.
func TestDocument(t *testing.T) { golden.Table(t, "../../../docs/MATRIX.md", matrix.Table()) }

// Every asker meets every kind of port, and no cell is there twice.
func TestCellsAreComplete(t *testing.T) {
	names, met := map[string]bool{}, map[matrix.Asker]map[matrix.Port]bool{}
	for _, c := range slices.Concat(matrix.Cells(), matrix.SCTP()) {
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

// Every row is there over every protocol, and a test is there that tries it.
func TestProtocols(t *testing.T) {
	code := tests(t)
	for _, p := range matrix.Protocols() {
		if want := len(matrix.Rows()) * len(matrix.Networks()) * 2; len(p.Cells) != want {
			t.Errorf("%s has %d cells, want %d", p.Name, len(p.Cells), want)
		}
		top, sub, _ := strings.Cut(p.Test, "/")
		if !strings.Contains(code, "func "+top+"(") || !strings.Contains(code, `"`+sub+`", `) {
			t.Errorf("%s names %s, which there is not", p.Name, p.Test)
		}
	}
}
