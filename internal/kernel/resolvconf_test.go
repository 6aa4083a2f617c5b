package kernel_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

// A command has the resolv.conf that it is given, and what it mounts stays with it.
func TestWorkloadResolves(t *testing.T) {
	before, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) {
		t.Logf("this host has no resolv.conf that one could lie over")
		return
	}
	w, err := kernel.NewWorkload()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.11\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Resolve(conf, func(err error) { t.Error(err) })
	script := `set -e
		grep -qx "nameserver 127.0.0.11" /etc/resolv.conf
		echo "search later.example" >> "$0"   # as the agent does, in place
		grep -qx "search later.example" /etc/resolv.conf
		umount /etc/resolv.conf               # as the kernel does where the host's file is replaced
		i=0; while ! grep -qx "nameserver 127.0.0.11" /etc/resolv.conf; do i=$((i+1)); [ $i -lt 100 ]; sleep 0.1; done
		mount -t tmpfs none "$1"; : > "$1/mine"`
	if status, err := w.Run(t.Context(), []string{"sh", "-c", script, conf, dir}, nil); err != nil || status != 0 {
		t.Errorf("status %d, %v", status, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err == nil {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		t.Error("the command's mount is the host's too")
	}
	if after, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(after) != string(before) {
		t.Errorf("the host's resolv.conf is now %q, %v", after, err)
	}
}
