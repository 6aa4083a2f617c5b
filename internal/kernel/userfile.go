package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// UserRulesName is the file in RUN_DIR with the administrator's rules.
const UserRulesName = "user.nft"

// keptUser is the administrator's table as it was last seen, in a file that nft can
// load. It is in the run directory because it is about rules in a kernel: they live
// as long as these would without a flush. What is to be there after a boot belongs
// where the host keeps its rules, and is left alone as it is found.
type keptUser struct {
	path   string
	home   hostID
	stages stages
	text   string // "" for none
	owed   bool   // it has to be loaded before its absence means anything
	sum    string // of the rules that text was listed from; "" where that is not known
}

// openUser reads what was kept of the calling thread's namespace. What is kept of
// another one, or from before the last boot, is nothing.
func openUser(runDir string, home hostID) (*keptUser, error) {
	k := &keptUser{path: filepath.Join(runDir, UserRulesName), home: home}
	return k, k.read()
}

func (k *keptUser) header() string {
	state := "kept"
	if k.owed {
		state = "owed"
	}
	return fmt.Sprintf("# sluice: %s, boot %s, namespace %d", state, k.home.Boot, k.home.Namespace)
}

func (k *keptUser) read() error {
	file, err := os.ReadFile(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		k.text, k.owed = "", false
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the user's rules: %w", err)
	}
	first, text, _ := strings.Cut(string(file), "\n")
	for _, owed := range []bool{false, true} {
		as := keptUser{home: k.home, owed: owed}
		if first == as.header() {
			k.text, k.owed = text, owed
		}
	}
	return nil
}

// keep stores the text; sum identifies the rules that it was listed from.
func (k *keptUser) keep(text, sum string) error {
	next := *k
	next.text, next.owed, next.sum = text, false, sum
	if text == k.text && !k.owed {
		*k = next
		return nil
	}
	if err := next.write(); err != nil {
		return fmt.Errorf("keep the user's rules: %w", err)
	}
	*k = next
	return nil
}

// owe reads the file again, which may have been corrected, and notes that it has to
// be loaded.
func (k *keptUser) owe() error {
	if err := k.read(); err != nil {
		return err
	}
	if k.text == "" || k.owed {
		return nil
	}
	k.owed = true
	if err := k.write(); err != nil {
		return fmt.Errorf("note that the user's rules are owed: %w", err)
	}
	return nil
}

// paid notes that the rules were loaded.
func (k *keptUser) paid() error { return k.keep(k.text, "") }

func (k *keptUser) write() error {
	return replaceFile(k.path, []byte(k.header()+"\n"+k.text), k.stages)
}

// forget removes the file.
func (k *keptUser) forget() error {
	for _, file := range []string{k.path, k.path + making} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the user's rules: %w", err)
		}
	}
	k.text, k.owed, k.sum = "", false, ""
	return nil
}
