package sim

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// exactly runs this program again so that it does the same each time: Go's scheduler, maps and
// selects draw from 16 bytes that the kernel gives a process at its start, which are overwritten
// here; and with one thread for Go code, no preemption and no collection in between, nothing is
// left that hangs on the machine. out may be a terminal or a file.
func exactly(out *os.File, random [16]byte, args ...string) error {
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GODEBUG=asyncpreemptoff=1", exactEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := overwrite(cmd.Process.Pid, random); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	return cmd.Wait()
}

// exactEnv is set in a process that exactly has made.
const exactEnv = "SLUICE_SIM_EXACT"

func overwrite(pid int, random [16]byte) error {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("the process did not stop at its start: %v", status)
	}
	at, err := randomAt(pid)
	if err != nil {
		return err
	}
	if _, err := syscall.PtracePokeData(pid, at, random[:]); err != nil {
		return err
	}
	return syscall.PtraceDetach(pid)
}

// randomAt is where the kernel has put the bytes.
func randomAt(pid int) (uintptr, error) {
	const atRandom = 25 // of getauxval(3)
	aux, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return 0, err
	}
	for ; len(aux) >= 16; aux = aux[16:] {
		if binary.NativeEndian.Uint64(aux) == atRandom {
			return uintptr(binary.NativeEndian.Uint64(aux[8:])), nil
		}
	}
	return 0, fmt.Errorf("process %d has no AT_RANDOM", pid)
}

func TestExact(t *testing.T) {
	for range 4 {
		if err := exactly(os.Stdout, [16]byte([]byte("0123456789abcdef")), "-test.run=^TestSchedules$", "-test.v", fmt.Sprint("-seed=", *oneSeed), "-most=8"); err != nil {
			t.Error(err)
		}
	}
}
