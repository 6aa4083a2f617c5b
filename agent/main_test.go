package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

const insideVariable = "SLUICE_TEST_INSIDE"

// TestMain runs the tests in a network namespace of their own, where the nodes'
// addresses are: gossip is real, and nothing of it leaves. The namespace ends
// with the process.
func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) == "" {
		os.Exit(inNamespace())
	}
	if err := addresses(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the namespace:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// inNamespace runs this program again in a new namespace and returns its exit status.
func inNamespace() int {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "run the tests in a namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// nodeAddr is the address of the n-th test node.
func nodeAddr(n int) string { return fmt.Sprintf("192.0.2.%d", 10+n) }

func addresses() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	for _, own := range []string{nodeAddr(1), nodeAddr(2), nodeAddr(3), nodeAddr(11), nodeAddr(12), nodeAddr(13), "203.0.113.1"} {
		addr, err := netlink.ParseAddr(own + "/32")
		if err != nil {
			return err
		}
		// A fuzzer's workers are started in its own namespace, and have it already.
		if err := netlink.AddrAdd(lo, addr); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
	}
	return nil
}
