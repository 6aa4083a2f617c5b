package kernel

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// CapturesName is the file in RUN_DIR that says which captures are about to go or come. It is
// there from before the rules change until the flows have been looked at: an agent that dies in
// between would find the rules as they should be, and know nothing of the flows.
const CapturesName = "captures.json"

// capturesFile is the file's content.
type capturesFile struct {
	hostID
	Gone []capture `json:"gone"`
	Came []capture `json:"came"`
}

// recall reads what an agent that died left to be done. What cannot be read is not of its making:
// a file is replaced at once.
func (c *captures) recall(runDir string, home hostID) {
	c.path, c.home = filepath.Join(runDir, CapturesName), home
	text, err := os.ReadFile(c.path)
	var content capturesFile
	if err != nil || json.Unmarshal(text, &content) != nil || content.hostID != home {
		return
	}
	c.kept, c.recalled = string(text), true
	c.gone, c.came = map[capture]bool{}, map[capture]bool{}
	for _, one := range content.Gone {
		c.gone[one] = true
	}
	for _, one := range content.Came {
		c.came[one] = true
	}
}

// settle leaves out what was recalled and did not happen: the agent may have died before the
// rules changed.
func (c *captures) settle() {
	if !c.recalled || c.maps == nil {
		return
	}
	c.recalled = false
	held := map[capture]bool{}
	for _, elements := range c.maps {
		for _, e := range elements {
			if one, ok := captureOf(e); ok {
				held[one] = true
			}
		}
	}
	maps.DeleteFunc(c.gone, func(one capture, _ bool) bool { return held[one] })
	maps.DeleteFunc(c.came, func(one capture, _ bool) bool { return !held[one] })
}

// intend keeps what a change of the host's rules will take out and bring.
func (c *captures) intend(op Op, at stages) error {
	next := captures{maps: c.maps, gone: maps.Clone(c.gone), came: maps.Clone(c.came)}
	next.follow(op)
	if maps.Equal(next.gone, c.gone) && maps.Equal(next.came, c.came) {
		return nil
	}
	return c.keep(next.gone, next.came, at)
}

// keep makes these what the file says; without any there is none.
func (c *captures) keep(gone, came map[capture]bool, at stages) error {
	if len(gone)+len(came) == 0 {
		return c.drop()
	}
	text, err := json.Marshal(capturesFile{c.home, capturesIn(gone), capturesIn(came)})
	if err != nil || string(text) == c.kept {
		return err
	}
	if err := replaceFile(c.path, text, at); err != nil {
		return fmt.Errorf("store the ports that change: %w", err)
	}
	c.kept = string(text)
	return nil
}

func (c *captures) drop() error {
	if c.kept == "" {
		return nil
	}
	for _, file := range []string{c.path, c.path + making} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the ports that changed: %w", err)
		}
	}
	c.kept = ""
	return nil
}

func capturesIn(set map[capture]bool) []capture {
	return slices.SortedFunc(maps.Keys(set), func(a, b capture) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), a.To.Compare(b.To), cmp.Compare(a.Port, b.Port))
	})
}
