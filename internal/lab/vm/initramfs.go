package vm

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// spec is what the guest is told to do.
type spec struct {
	Hostname string
	Kernel   string // version
	Modules  string // directory of all modules, in the host's root
	Load     []string
	Command  []string
	Dir      string
	Env      []string
	Outputs  []string
	Systemd  bool
}

// specFile is where the guest finds its spec.
const specFile = "/sluicevm.json"

// writeInitramfs writes the archive from which the guest starts.
func writeInitramfs(path string, k kernel, o Options) error {
	self, err := staticProgram()
	if err != nil {
		return err
	}
	modules, err := bootModules(k)
	if err != nil {
		return fmt.Errorf("find modules: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	s := spec{
		Hostname: host, Kernel: k.version, Modules: k.modules(),
		Command: o.Command, Dir: o.Dir, Env: append(slices.Clone(o.Env), EnvInside+"=1"), Outputs: o.Outputs, Systemd: o.Systemd,
	}
	if o.Steady {
		s.Env = append(s.Env, EnvSteady+"=1")
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	a := cpio{w: w}
	for _, dir := range []string{"dev", "proc", "sys", "host", "rw", "root", "modules"} {
		a.add(dir, modeDir|0o755, nil)
	}
	a.add("init", modeFile|0o755, self)
	for _, module := range modules {
		text, err := os.ReadFile(filepath.Join(k.modules(), module))
		if err != nil {
			return err
		}
		name := "modules/" + filepath.Base(module)
		s.Load = append(s.Load, "/"+name)
		a.add(name, modeFile|0o644, text)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	a.add(strings.TrimPrefix(specFile, "/"), modeFile|0o644, text)
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(a.err, w.Flush())
}

// staticProgram is the running program, which becomes the guest's first process
// and finds no library there.
func staticProgram() ([]byte, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s is linked dynamically: build it with CGO_ENABLED=0", path)
		}
	}
	return os.ReadFile(path)
}

// bootModules lists what the guest needs before it has a root, in load order.
func bootModules(k kernel) ([]string, error) {
	dep, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules(), "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var order []string
	for _, name := range []string{"virtio_pci", "virtio_console", "virtiofs", "overlay"} {
		if strings.Contains(string(builtin), "/"+name+".ko\n") {
			continue
		}
		chain := loadOrder(string(dep), name)
		if chain == nil {
			return nil, fmt.Errorf("kernel %s has no module %s", k.version, name)
		}
		for _, m := range chain {
			if !slices.Contains(order, m) {
				order = append(order, m)
			}
		}
	}
	return order, nil
}

// loadOrder reads from modules.dep what to load for a module, itself last; nil
// where there is no such module. A line is "PATH: DEP DEP…", each path after
// those that need it, so that the order to load is from the end.
func loadOrder(dep, name string) []string {
	for line := range strings.Lines(dep) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		if filepath.Base(path) != name+".ko" {
			continue
		}
		order := strings.Fields(needs)
		slices.Reverse(order)
		return append(order, path)
	}
	return nil
}

// Kinds of file in a cpio archive.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

// cpio writes the "newc" archive that the kernel unpacks. The first error stays.
type cpio struct {
	w     io.Writer
	inode int
	err   error
}

func (c *cpio) add(name string, mode int, data []byte) {
	c.inode++
	const one, none = 1, 0 // links; owner, time and devices
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, none, none, one, none, len(data), none, none, none, none, len(name)+1, none, name))
	c.write(data)
}

// write pads to four bytes, as header and data both are.
func (c *cpio) write(b []byte) {
	if c.err != nil {
		return
	}
	_, c.err = c.w.Write(append(b, make([]byte, -len(b)&3)...))
}
