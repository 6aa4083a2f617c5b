package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
)

// Every command has a page; the pages' form is seen on three.
func TestMan(t *testing.T) {
	dir := t.TempDir()
	got := sluice(t, newApp(), "man", dir)
	if got.status != 0 || !strings.Contains(got.stdout, dir) {
		t.Fatalf("got %+v", got)
	}
	for _, verb := range everyVerb() {
		if _, err := os.Stat(filepath.Join(dir, "sluice-"+strings.ReplaceAll(verb, " ", "-")+".8")); err != nil {
			t.Error(err)
		}
	}
	var text string
	for _, name := range []string{"sluice.8", "sluice-service.8", "sluice-reset.8"} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		text += string(page)
	}
	golden.Equal(t, text)
	for _, place := range []string{dir + "/none", dir + "/sluice.8"} {
		if got := sluice(t, newApp(), "man", place); got.status != 1 || !strings.HasPrefix(got.stderr, "sluice: write the manual: ") {
			t.Errorf("%s: got %+v", place, got)
		}
	}
}

func TestRoff(t *testing.T) {
	if got, want := roff(".so /etc/passwd\n'x\\y --z"), "\\&.so /etc/passwd\n\\&'x\\ey \\-\\-z"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
