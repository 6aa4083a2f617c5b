package matrix_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Each row of docs/MOBY.md names tests that there are, or says why there is none.
func TestMoby(t *testing.T) {
	text, err := os.ReadFile("../../../docs/MOBY.md")
	if err != nil {
		t.Fatal(err)
	}
	code := tests(t)
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)(?:/([A-Za-z]+))?`")
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || cells[1] == " moby " || strings.HasPrefix(cells[1], "-") {
			continue
		}
		rows++
		found := name.FindAllStringSubmatch(cells[2], -1)
		if len(found) == 0 && !strings.Contains(cells[2], "not ours: ") && !strings.Contains(cells[2], "otherwise: ") {
			t.Errorf("%s: neither a test nor a reason", strings.TrimSpace(cells[1]))
		}
		for _, f := range found {
			if !strings.Contains(code, "func "+f[1]+"(") || f[2] != "" && !strings.Contains(code, `{"`+f[2]+`", test`) {
				t.Errorf("%s names %s, which there is not", strings.TrimSpace(cells[1]), f[0])
			}
		}
	}
	if rows < 40 {
		t.Errorf("%d rows were read", rows)
	}
}

// tests are all test files as one text.
func tests(t *testing.T) string {
	t.Helper()
	var code strings.Builder
	err := filepath.WalkDir("../../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".build":
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		code.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code.String()
}
