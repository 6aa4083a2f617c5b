package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// exactly runs this program again so that it does the same each time: Go's scheduler, maps and
// selects draw from 16 bytes that the kernel gives a process at its start, which are overwritten
// here; and with one thread for Go code, nobody to preempt it and no collection of memory in between,
// nothing is left that hangs on the machine. out may be a terminal or a file.
func exactly(out *os.File, random [16]byte, args ...string) error {
	runtime.LockOSThread() // who traces is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT="+exactMemory, "GODEBUG=asyncpreemptoff=1", exactEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	watcher, err := prepare(cmd.Process.Pid, random)
	if err != nil {
		_ = cmd.Process.Kill()
	} else {
		// It is never let go on; that it ends has to be heard before that its process ends.
		err = ended(watcher)
	}
	return errors.Join(err, cmd.Wait())
}

func ended(thread int) error {
	for {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(thread, &status, syscall.WALL, nil); err != nil || status.Exited() || status.Signaled() {
			return err
		}
	}
}

// exactMemory is where memory is collected after all: such a run may differ in the next.
const exactMemory = "4GiB"

// exactEnv is set in a process that exactly has made.
const exactEnv = "SLUICE_SIM_EXACT"

// prepare takes a process from its start to where it has made its second thread, and lets the
// first go on alone. That second one is the runtime's watcher, which interrupts who computes for
// long: on a busy machine anybody does.
func prepare(pid int, random [16]byte) (watcher int, err error) {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, err
	}
	if !status.Stopped() {
		return 0, fmt.Errorf("the process did not stop at its start: %v", status)
	}
	at, err := randomAt(pid)
	if err != nil {
		return 0, err
	}
	if _, err := syscall.PtracePokeData(pid, at, random[:]); err != nil {
		return 0, err
	}
	if err := onOneCPU(pid); err != nil {
		return 0, err
	}
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE); err != nil {
		return 0, err
	}
	for signal := 0; ; signal = int(status.StopSignal()) {
		if err := syscall.PtraceCont(pid, signal); err != nil {
			return 0, err
		}
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
			return 0, err
		}
		if !status.Stopped() {
			return 0, fmt.Errorf("the process ended before it had a second thread: %v", status)
		}
		if status.TrapCause() == syscall.PTRACE_EVENT_CLONE {
			break
		}
	}
	tid, err := syscall.PtraceGetEventMsg(pid)
	if err != nil {
		return 0, err
	}
	return int(tid), syscall.PtraceDetach(pid)
}

// onOneCPU sees to it that of two threads that hand over to each other one has stopped before
// the other begins.
func onOneCPU(pid int) error {
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &may); err != nil {
		return err
	}
	for cpu, seen := 0, 0; seen < may.Count(); cpu++ {
		if !may.IsSet(cpu) {
			continue
		}
		if one.Zero(); seen == pid%may.Count() {
			one.Set(cpu)
			return unix.SchedSetaffinity(pid, &one)
		}
		seen++
	}
	return nil
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

// drawn is the first number that a process drew. There are a few that an exact one can begin
// with, as its first threads race; from there on all is one way.
var drawn = rand.Uint32()

// otherDraw is the exit status of a process that was to begin with another number.
const otherDraw = 3

// exactTries is how often a start is repeated that is to begin with a certain number.
const exactTries = 100

// replay plays a schedule exactly, and gives what it printed.
func replay(t *testing.T, seed uint64, draw uint32) (output string, err error) {
	t.Helper()
	args := []string{
		"-test.run=^TestSchedules$", fmt.Sprint("-seed=", seed), fmt.Sprint("-least=", *least), fmt.Sprint("-most=", *most), fmt.Sprint("-removals=", *removals),
		fmt.Sprint("-log=", *logged), fmt.Sprint("-draw=", draw), fmt.Sprint("-test.v=", *logged),
	}
	for range exactTries {
		out, err := os.CreateTemp(t.TempDir(), "run")
		if err != nil {
			return "", err
		}
		err = exactly(out, [16]byte([]byte("0123456789abcdef")), args...)
		out.Close()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == otherDraw {
			continue
		}
		text, readErr := os.ReadFile(out.Name())
		return string(text), errors.Join(err, readErr)
	}
	return "", fmt.Errorf("no process began with %d in %d starts", draw, exactTries)
}

// A schedule that is played again does the same to the last packet.
func TestReplay(t *testing.T) {
	const seed = 398291624056
	first, err := replay(t, seed, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, first)
	}
	var draw uint32
	var trace uint64
	if _, err := fmt.Sscanf(first, "drew %d, trace %d", &draw, &trace); err != nil || trace == 0 {
		t.Fatalf("%v: %s", err, first)
	}
	again, err := replay(t, seed, draw)
	if err != nil || again != first {
		t.Errorf("it was\n%sand then\n%s%v", first, again, err)
	}
}
