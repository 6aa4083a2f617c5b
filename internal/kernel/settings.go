package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// SettingsName is the file in RUN_DIR that says what the host's settings were.
const SettingsName = "settings.json"

// making ends the name of a file of ours in RUN_DIR while it is written.
const making = ".new"

// SettingsDamaged is the reason of a refusal by New: the earlier values of the
// host's settings cannot be read.
const SettingsDamaged plan.Reason = "SettingsDamaged"

// Setting is one of the host's settings that this package has changed, or that
// the kernel changed along with such a one.
type Setting struct {
	Key    string `json:"key"`    // path below /proc/sys
	Before string `json:"before"` // the value that was overwritten
	Ours   string `json:"ours"`   // the value since then

	// Restoring: a reset has begun to put things back, and until it has ended the
	// value says nothing about anybody's will.
	Restoring bool `json:"restoring,omitempty"`
}

// settings remembers the host's settings from before they are changed. The file
// is on the disk before the change is made, so that a crash between the two
// leaves a line too many and never one too few.
type settings struct {
	path string
	home hostID
	list []Setting // in the order of the changes

	stages stages
}

// hostID tells one life of a network namespace from every other: a file that
// outlived a reboot speaks of values that nothing has any more.
type hostID struct {
	Boot      string `json:"boot"`
	Namespace uint64 `json:"namespace"` // its cookie, which is not used again before the next boot
}

// settingsFile is the file's content.
type settingsFile struct {
	hostID
	Settings []Setting `json:"settings"`
}

// openSettings reads what was remembered about the calling thread's namespace.
func openSettings(runDir string) (*settings, error) {
	home, err := ownHost()
	if err != nil {
		return nil, err
	}
	s := &settings{path: filepath.Join(runDir, SettingsName), home: home}
	content, err := readSettings(s.path)
	if err != nil {
		return nil, err
	}
	if content.hostID == home {
		s.list = content.Settings
	}
	return s, nil
}

func ownHost() (hostID, error) {
	boot, err := os.ReadFile(path.Join(procSys, "kernel/random/boot_id"))
	if err != nil {
		return hostID{}, fmt.Errorf("read boot ID: %w", err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return hostID{}, fmt.Errorf("identify own namespace: %w", err)
	}
	defer unix.Close(socket)
	cookie, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return hostID{}, fmt.Errorf("identify own namespace: %w", err)
	}
	return hostID{Boot: strings.TrimSpace(string(boot)), Namespace: cookie}, nil
}

// readSettings returns nothing where there is no file.
func readSettings(file string) (content settingsFile, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return content, nil
	}
	if err != nil {
		return content, fmt.Errorf("read the earlier settings: %w", err)
	}
	if err := json.Unmarshal(text, &content); err != nil {
		return content, &Refusal{
			SettingsDamaged, fmt.Sprintf("%s, which holds the host's earlier settings, cannot be read (%v)", file, err),
			"remove it, and compare net/ipv4/ip_forward, net/ipv6/conf/all/forwarding and accept_ra with what they should be",
		}
	}
	return content, nil
}

// remember adds changes that are about to be made. What a key was before we first
// changed it stays known; where somebody changed it since, his value is the one to keep.
func (s *settings) remember(changes []Setting) error {
	list := slices.Clone(s.list)
	for _, c := range changes {
		i := slices.IndexFunc(list, func(have Setting) bool { return have.Key == c.Key })
		switch {
		case i < 0:
			list = append(list, c)
		case c.Before != list[i].Ours && !list[i].Restoring:
			list[i] = c
		default:
			list[i].Ours, list[i].Restoring = c.Ours, false
		}
	}
	return s.keep(list)
}

// restoring notes that from now on the settings get these values, where it is not
// known yet. A reset that dies and is begun again then goes on where it was:
// switching forwarding off changes others on the way.
func (s *settings) restoring(wishes []wish) error {
	list := slices.Clone(s.list)
	for _, w := range wishes {
		i := slices.IndexFunc(list, func(have Setting) bool { return have.Key == w.Key })
		list[i].Before, list[i].Restoring = w.value, true
	}
	return s.keep(list)
}

// keep makes list what is remembered, on the disk too.
func (s *settings) keep(list []Setting) error {
	if slices.Equal(list, s.list) {
		return nil
	}
	if err := s.write(list); err != nil {
		return fmt.Errorf("store the earlier settings: %w", err)
	}
	s.list = list
	return nil
}

// before is what each key was before we first changed it.
func (s *settings) before() map[string]string {
	values := make(map[string]string, len(s.list))
	for _, c := range s.list {
		values[c.Key] = c.Before
	}
	return values
}

// write replaces the file at once: whoever reads it finds the old one or the new one.
func (s *settings) write(list []Setting) error {
	text, err := json.MarshalIndent(settingsFile{s.home, list}, "", "\t")
	if err != nil {
		return err
	}
	return replaceFile(s.path, append(text, '\n'), s.stages)
}

// replaceFile replaces a file at once, making its directory where there is none:
// whoever reads it finds the old one or the new one, also after a crash.
func replaceFile(path string, text []byte, at stages) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeSynced(path+making, text); err != nil {
		return err
	}
	at.reach("file written")
	if err := os.Rename(path+making, path); err != nil {
		return err
	}
	at.reach("file in place")
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeSynced(file string, text []byte) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// forget removes the file.
func (s *settings) forget() error {
	for _, file := range []string{s.path, s.path + making} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the earlier settings: %w", err)
		}
		s.stages.reach("settings file removed")
	}
	s.list = nil
	return nil
}

// setHostSysctl is setSysctl with what was there remembered first.
func (k *Kernel) setHostSysctl(o plan.Sysctl) error {
	if err := k.host.refuseSetting(o.Key); err != nil {
		return err // before it is remembered
	}
	err := k.host.do(func() error {
		changes, err := changesWith(o)
		if err != nil {
			return err
		}
		return k.settings.remember(changes)
	})
	if err != nil {
		return err
	}
	return k.host.setSysctl(o)
}

// changesWith are all settings that writing one changes, itself last.
func changesWith(o plan.Sysctl) ([]Setting, error) {
	var changes []Setting
	for _, f := range followers(o.Key) {
		have, err := readSysctls(f.Key)
		if err != nil {
			return nil, err
		}
		for _, key := range matching(f.Key, have) {
			if key != o.Key && key != aliasOfForward {
				changes = append(changes, Setting{Key: key, Before: have[key], Ours: f.Value})
			}
		}
	}
	have, err := readSysctls(o.Key)
	if err != nil {
		return nil, err
	}
	if before, ok := have[o.Key]; ok { // otherwise setting it will tell
		changes = append(changes, Setting{Key: o.Key, Before: before, Ours: o.Value})
	}
	return changes, nil
}

// aliasOfForward is net/ipv4/ip_forward under another name.
const aliasOfForward = "net/ipv4/conf/all/forwarding"

// followers are the settings that the kernel changes along with one that is
// switched on, with their values then. Switching it off changes them again,
// whatever they were before.
func followers(key string) []plan.Sysctl {
	switch key {
	case "net/ipv4/ip_forward":
		return []plan.Sysctl{
			{Key: "net/ipv4/conf/*/forwarding", Value: "1"},
			{Key: "net/ipv4/conf/all/accept_redirects", Value: "0"},
		}
	case "net/ipv6/conf/all/forwarding":
		return []plan.Sysctl{{Key: "net/ipv6/conf/*/forwarding", Value: "1"}}
	default:
		return nil
	}
}
