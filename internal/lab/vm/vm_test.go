package vm

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseArgs(t *testing.T) {
	env := []string{"A=1", "GOCOVERDIR=cov"}
	o, err := ParseArgs([]string{
		"-t", "1.5", "-1", "-systemd", "-o", "x", "-o", "/y", "/tmp/a.test", "-test.v", "-test.outputdir=/out",
		"-test.coverprofile=c.out", "-test.gocoverdir=g", "-test.testlogfile=/b/log", "-t", "9",
	}, "/home/me", env)
	if err != nil {
		t.Fatal(err)
	}
	if o.Limit != 1500*time.Millisecond || !o.Steady || !o.Systemd || o.Memory != "4G" || o.Dir != "/home/me" {
		t.Errorf("%+v", o)
	}
	if want := []string{"-t", "9"}; !slices.Equal(o.Command[len(o.Command)-2:], want) {
		t.Errorf("command %q does not keep its own flags", o.Command)
	}
	if want := []string{"x", "/y", "/out", "/home/me/g", "/out", "/b", "/home/me/cov"}; !slices.Equal(o.Outputs, want) {
		t.Errorf("outputs %q, want %q", o.Outputs, want)
	}
}

func TestParseArgsRefuses(t *testing.T) {
	for _, args := range [][]string{{}, {"-t", "5"}, {"-t", "0", "true"}, {"-m", "lots", "true"}, {"-m", "4G,size=1", "true"}, {"-z", "true"}} {
		if o, err := ParseArgs(args, "/", nil); err == nil {
			t.Errorf("%q was taken: %+v", args, o)
		}
	}
}

func TestReadVerdict(t *testing.T) {
	for text, want := range map[string]verdict{
		"exit 0\n":   {known: true},
		"exit 143\n": {known: true, status: 143},
	} {
		if got := readVerdict(strings.NewReader(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	for text, why := range map[string]string{
		"fail mount /: no\n": "guest: mount /: no",
		"exit soon\n":        `guest said "exit soon"`,
	} {
		if got := readVerdict(strings.NewReader(text)); got.known || got.err == nil || got.err.Error() != why {
			t.Errorf("%q: %+v, want %s", text, got, why)
		}
	}
	for _, text := range []string{"", "exit 1"} { // cut off: the machine died
		if got := readVerdict(strings.NewReader(text)); got != (verdict{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestLoadOrder(t *testing.T) {
	const dep = "kernel/fs/overlayfs/overlay.ko:\n" +
		"kernel/drivers/virtio/virtio_pci.ko: kernel/v/modern.ko kernel/v/ring.ko kernel/v/virtio.ko\n"
	want := []string{"kernel/v/virtio.ko", "kernel/v/ring.ko", "kernel/v/modern.ko", "kernel/drivers/virtio/virtio_pci.ko"}
	if got := loadOrder(dep, "virtio_pci"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := loadOrder(dep, "overlay"); !slices.Equal(got, []string{"kernel/fs/overlayfs/overlay.ko"}) {
		t.Errorf("got %q", got)
	}
	if got := loadOrder(dep, "virtio"); got != nil {
		t.Errorf("a module that is not there: %q", got)
	}
}

func TestKernelPackage(t *testing.T) {
	const text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-1-cloud-amd64\n"
	if got := kernelPackage(text); got != "linux-image-6.1.0-1-cloud-amd64" {
		t.Errorf("got %q", got)
	}
	if got := kernelPackage("W: nothing\n"); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestCpio checks the archive byte by byte: its reader is the kernel.
func TestCpio(t *testing.T) {
	var b bytes.Buffer
	a := cpio{w: &b}
	a.add("etc", modeDir|0o755, nil)
	a.add("init", modeFile|0o755, []byte("hello"))
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		t.Fatal(a.err)
	}
	zeros := func(n int) string { return strings.Repeat("00000000", n) }
	want := "070701" + "00000001" + "000041ed" + zeros(2) + "00000001" + zeros(6) + "00000004" + zeros(1) + "etc\x00\x00\x00" +
		"070701" + "00000002" + "000081ed" + zeros(2) + "00000001" + zeros(1) + "00000005" + zeros(4) + "00000005" + zeros(1) +
		"init\x00\x00" + "hello\x00\x00\x00" +
		"070701" + "00000003" + zeros(3) + "00000001" + zeros(6) + "0000000b" + zeros(1) + "TRAILER!!!\x00" + "\x00\x00\x00\x00"
	want = want[:len(want)-1] // 110 + 11 bytes: three of padding
	if got := b.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestReapGivesStatusAsAShellDoes(t *testing.T) {
	for script, want := range map[string]int{"exit 3": 3, "kill -9 $$": 137, "true & exit 0": 0} {
		c := exec.CommandContext(t.Context(), "sh", "-c", script)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if got, err := reap(c.Process.Pid); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", script, got, err, want)
		}
		_ = c.Wait() // reap has taken the status
	}
}
