package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/doctor"
)

// runDir looks at the directory, at what is mounted in it, and whether others see that.
func (i *inspector) runDir() error {
	d, shared, err := lookAtDir(i.RunDir)
	i.facts.RunDir.Dir, i.facts.RunDir.Shared = d, shared
	if err != nil {
		return err
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	first, err := os.Readlink("/proc/1/ns/mnt")
	i.facts.RunDir.OwnMounts = err == nil && own != first // without the right to ask, it is not known
	dir := filepath.Join(i.RunDir, netnsName)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if _, ours := kindOf(e.Name()); !ours {
			continue
		}
		fd, _, err := openFile(filepath.Join(dir, e.Name()))
		switch {
		case err == nil:
			fd.Close()
			i.facts.RunDir.Sandboxes = append(i.facts.RunDir.Sandboxes, e.Name())
		case absent(err):
			i.facts.RunDir.Dead = append(i.facts.RunDir.Dead, e.Name())
		default:
			return err
		}
	}
	return nil
}

func (i *inspector) dataDir() error {
	d, _, err := lookAtDir(i.DataDir)
	i.facts.DataDir.Dir = d
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(i.DataDir, i.DataFile))
	i.facts.DataDir.Holds = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// lookAtDir looks at a directory, or at the nearest one above it that is there.
func lookAtDir(dir string) (d doctor.Dir, shared bool, err error) {
	d.Path, d.Exists = dir, true
	var info fs.FileInfo
	at := dir
	for info, err = os.Stat(at); errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at); info, err = os.Stat(at) {
		at, d.Exists = filepath.Dir(at), false
	}
	switch {
	case err != nil:
		return d, false, err
	case !info.IsDir():
		d.Refused = at + " is no directory"
		return d, false, nil
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		d.Refused = err.Error()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return d, false, fmt.Errorf("look at file system of %s: %w", at, err)
	}
	d.Free, d.FreeInodes, d.Inodeless = st.Bavail*uint64(st.Bsize), st.Ffree, st.Files == 0
	if at, err = filepath.EvalSymlinks(at); err != nil {
		return d, false, err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return d, false, err
	}
	d.Filesystem, shared = mountOf(string(table), at)
	return d, shared, nil
}

// mountOf finds the mount that a directory is on: its type, and whether mounts in it are
// seen elsewhere. Of several at one place the last one counts.
func mountOf(table, dir string) (kind string, shared bool) {
	longest := -1
	for line := range strings.Lines(table) {
		// 36 35 98:0 /root /mount/point rw,noatime shared:1 master:2 - ext4 /dev/sda rw
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || dash+1 >= len(f) {
			continue
		}
		point := unescape(f[4])
		if inside := point == dir || strings.HasPrefix(dir, strings.TrimSuffix(point, "/")+"/"); !inside || len(point) < longest {
			continue
		}
		longest, kind = len(point), f[dash+1]
		shared = slices.ContainsFunc(f[6:dash], func(o string) bool { return strings.HasPrefix(o, "shared:") })
	}
	return kind, shared
}

// unescape reads the octal escapes of mountinfo.
func unescape(point string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(point)
}
