package agent

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// lifetime is the process that an endpoint ends with. A PID is used again, the
// pair of PID and start time within one boot is not.
type lifetime struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	Boot  string `json:"boot"`  // start times of another boot mean nothing
}

// lifetimeOf looks at a process that lives now.
func lifetimeOf(pid int) (lifetime, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return lifetime{}, fmt.Errorf("read boot ID: %w", err)
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return lifetime{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	start, err := startTime(stat)
	if err != nil {
		return lifetime{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return lifetime{PID: pid, Start: start, Boot: strings.TrimSpace(string(boot))}, nil
}

// startTime is field 22 of /proc/PID/stat. The second field is the program's
// name, which may hold blanks and brackets: counting begins behind the last one.
func startTime(stat []byte) (uint64, error) {
	const after = 22 - 3 // the state, field 3, is the first behind the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= after {
		return 0, fmt.Errorf("read stat: %d fields", len(fields))
	}
	return strconv.ParseUint(string(fields[after]), 10, 64)
}
