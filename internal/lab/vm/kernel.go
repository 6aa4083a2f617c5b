package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// virtiofsd is where Debian 12's qemu has it.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// kernel is an unpacked kernel package, with its modules' dependencies worked out.
type kernel struct {
	root    string // of the unpacked package
	version string // as uname -r says it
}

func (k kernel) image() string   { return filepath.Join(k.root, "boot", "vmlinuz-"+k.version) }
func (k kernel) modules() string { return filepath.Join(k.root, "lib", "modules", k.version) }

// findKernel gives the machine's kernel from the cache of this host, which it
// fills at first use. Whoever comes second waits. The cache holds one directory
// per version of the package, and the link "current"; a newer one is fetched
// when that link is removed.
func findKernel(ctx context.Context, log io.Writer) (kernel, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return kernel{}, err
	}
	cache = filepath.Join(cache, "sluice", "vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return kernel{}, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return kernel{}, fmt.Errorf("lock cache: %w", err)
	}
	defer unlock()
	if err := installNeeds(ctx, log); err != nil {
		return kernel{}, err
	}
	current := filepath.Join(cache, "current")
	if _, err := os.Stat(current); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(log, "sluicevm: fetching Debian's cloud kernel, once")
		if err := fetch(ctx, cache, current); err != nil {
			return kernel{}, err
		}
	}
	return openKernel(current)
}

// lock takes the lock file for this process and gives what releases it.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// openKernel reads which kernel an unpacked package is.
func openKernel(root string) (kernel, error) {
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return kernel{}, err
	}
	dirs, err := os.ReadDir(filepath.Join(root, "lib", "modules"))
	if err != nil {
		return kernel{}, err
	}
	if len(dirs) != 1 {
		return kernel{}, fmt.Errorf("%s holds %d kernels: remove it, it is fetched anew", root, len(dirs))
	}
	return kernel{root: root, version: dirs[0].Name()}, nil
}

// installNeeds installs the Debian packages of the programs that are absent.
func installNeeds(ctx context.Context, log io.Writer) error {
	needs := []struct{ program, pkg string }{
		{"qemu-system-x86_64", "qemu-system-x86"}, {virtiofsd, "qemu-system-x86"}, {"depmod", "kmod"}, {"modprobe", "kmod"},
	}
	var missing []string
	for _, n := range needs {
		if _, err := exec.LookPath(n.program); err != nil {
			missing = append(missing, n.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintln(log, "sluicevm: installing", strings.Join(missing, " "))
	if err := quietly(ctx, "", "apt-get", "update", "-qq"); err != nil {
		return err
	}
	return quietly(ctx, "", "apt-get", append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...)...)
}

// fetch downloads and unpacks the kernel package into the cache and makes
// current point there. Until the last step the cache looks as before.
func fetch(ctx context.Context, cache, current string) error {
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	deb, err := download(ctx, work)
	if err != nil {
		// The package lists may be absent, or older than the mirror.
		if err := quietly(ctx, "", "apt-get", "update", "-qq"); err != nil {
			return err
		}
		if deb, err = download(ctx, work); err != nil {
			return err
		}
	}
	root := filepath.Join(work, "root")
	if err := quietly(ctx, "", "dpkg", "-x", deb, root); err != nil {
		return err
	}
	k, err := openKernel(root)
	if err != nil {
		return err
	}
	if err := quietly(ctx, "", "depmod", "-b", root, k.version); err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(deb), ".deb")
	if err := os.RemoveAll(filepath.Join(cache, name)); err != nil {
		return err
	}
	if err := os.Rename(root, filepath.Join(cache, name)); err != nil {
		return err
	}
	_ = os.Remove(current) // a link to what is gone
	return os.Symlink(name, current)
}

// download puts the newest cloud kernel's package into dir and gives its path.
func download(ctx context.Context, dir string) (string, error) {
	text, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-cloud-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for the kernel: %w", err)
	}
	name := kernelPackage(string(text))
	if name == "" {
		return "", errors.New("apt knows no linux-image-cloud-amd64: add Debian's main component to the apt sources")
	}
	if err := quietly(ctx, dir, "apt-get", "download", "-qq", name); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s: found %d packages", name, len(debs))
	}
	return debs[0], nil
}

// kernelPackage finds the kernel behind the meta package in apt-cache's text.
func kernelPackage(depends string) string {
	for line := range strings.Lines(depends) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name
		}
	}
	return ""
}

// quietly runs a program and shows what it said only if it failed.
func quietly(ctx context.Context, dir, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(said))
	}
	return nil
}
