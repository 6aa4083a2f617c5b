package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// With Options.Systemd the guest's first process becomes systemd once it has made
// the root, and this program runs again as a service that runs the command.
//
//	/init, process 1 --exec--> systemd, process 1 --starts--> sluicevm.service: this program --> command

// The files of the service. /run is the guest's own: nothing of it reaches the host.
const (
	systemd        = "/lib/systemd/systemd"
	serviceProgram = "/run/sluicevm"
	serviceSpec    = "/run/sluicevm.json"
	serviceUnit    = "/run/systemd/system/sluicevm.service"
	tmpRules       = "/run/tmpfiles.d/tmp.conf" // goes before the file of that name in /usr/lib/tmpfiles.d
)

// serviceText is the unit. It has the dependencies that every service has, and
// nothing else is started: what the host's own default target would start is none
// of the guest's business.
const serviceText = `[Unit]
Description=The command of the virtual machine
AllowIsolate=yes
FailureAction=poweroff-immediate
SuccessAction=poweroff-immediate

[Service]
ExecStart=` + serviceProgram + `
TasksMax=infinity
LimitNOFILE=1048576
`

// masked are units that systemd would start for our service's sake and that do nothing for a
// command: each takes about a second of an emulated processor.
func masked() []string {
	return []string{
		"kmod-static-nodes.service", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service", "systemd-journal-flush.service",
		"systemd-sysusers.service", "systemd-update-utmp.service",
	}
}

// inService says whether this process is the service of a guest under systemd.
func inService() bool { return os.Args[0] == serviceProgram }

// becomeSystemd returns only where it failed.
func (g *guest) becomeSystemd() error {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	text, err := json.Marshal(g.spec)
	if err != nil {
		return err
	}
	for _, dir := range []string{path.Dir(serviceUnit), path.Dir(tmpRules)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		path string
		text []byte
		mode os.FileMode
	}{
		{serviceProgram, program, 0o755},
		{serviceSpec, text, 0o644},
		{serviceUnit, []byte(serviceText), 0o644},
		{"/etc/fstab", nil, 0o644}, // the host's disks are not here: systemd would wait for them
		{tmpRules, nil, 0o644},     // in place of those that empty /tmp: what the command needs may be there
	} {
		if err := os.WriteFile(f.path, f.text, f.mode); err != nil {
			return err
		}
	}
	for _, unit := range masked() {
		if err := os.Symlink(os.DevNull, "/run/systemd/system/"+unit); err != nil {
			return err
		}
	}
	name := serviceUnit[strings.LastIndexByte(serviceUnit, '/')+1:]
	if err := unix.Exec(systemd, []string{systemd, "--unit=" + name}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}); err != nil {
		return fmt.Errorf("become %s: %w", systemd, err)
	}
	return nil
}
