package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/mesh"
)

// mounted mounts a small disk in memory and unmounts it after the test.
func mounted(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A full disk is named, loses nothing that was kept before, and is written again once there is room.
func TestDiskFull(t *testing.T) {
	dir := mounted(t, "1m")
	s, _ := mustOpen(t, dir)
	defer func() { s.close() }()
	first := written(service("first", 1), testID[mesh.NodeID]('a', 1), 1)
	if err := s.putRecords([]mesh.Record{first}); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); err == nil {
		t.Fatal("the disk has more room than it should")
	}
	var large []mesh.Record
	for i := range 2000 {
		large = append(large, written(service("large", 10+i), testID[mesh.NodeID]('a', 1), 2))
	}
	if err := s.putRecords(large); mesh.ReasonOf(err) != DiskFull {
		t.Fatalf("a full disk gives %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.putRecords(large[:10]); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	s.close()
	again, content := mustOpen(t, dir)
	s = again
	if len(content.Records) != 11 || len(content.Left) > 0 {
		t.Errorf("%d records are left, %d cannot be read", len(content.Records), len(content.Left))
	}
}

// A disk that became read-only is named, while the agent runs and when it starts.
func TestDiskReadOnly(t *testing.T) {
	dir := mounted(t, "4m")
	s, _ := mustOpen(t, dir)
	s.close()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openStore(dir); mesh.ReasonOf(err) != DiskReadOnly {
		t.Errorf("a disk that cannot be written gives %v", err)
	}
}
