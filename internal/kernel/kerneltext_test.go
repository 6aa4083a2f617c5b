package kernel_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// holding is a shell command that writes down what a namespace holds. The lines
// before the mark are sorted, since a device that was made again stands last in
// every list. It runs few programs, for it is run often.
const holding = `
	printf '%s\n' 'link show' 'address show' 'rule show' 'route show table all' 'neighbour show nud permanent' | ip -d -o -b -
	ip -d -o -6 rule
	bridge -d fdb show
	grep -rsH '' /proc/sys/net || test $? = 2 # some files may only be written
	echo ` + inOrder + `
	nft -s list ruleset | sed '/^table inet sluice-lock /,/^}/d' # it belongs to a process
	if test -e /proc/net/ip_vs; then ipvsadm -Sn; ipvsadm -l --timeout; fi`

// inOrder stands before what has an order that means something.
const inOrder = "in order:"

// unlike are the only differences that two kernels with the same plan may show:
// what the kernel numbers, draws by lot or counts. Everything else is compared.
var unlike = []struct {
	what    *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`^\d+: (\S+[: ] )`), "$1"},                                // index of a device
	{regexp.MustCompile(`^(local .* proto 83 .*metric) \d+`), "$1"},               // made of the index of the device
	{regexp.MustCompile(`@if\d+`), ""},                                            // index of a veth's peer
	{regexp.MustCompile(` link-netnsid \d+`), ""},                                 // number of a veth's peer's namespace
	{regexp.MustCompile(`\b(sum_[0-9a-f]+)(_\d+)*`), "$1"},                        // indexes that nft rules were loaded with,
	{regexp.MustCompile(`\brules_[0-9a-f]+`), "rules_"},                           // and a sum over rules that hold them
	{regexp.MustCompile(`fe80::[0-9a-f:]*ff:fe[0-9a-f:]*`), "fe80::drawn"},        // made of a MAC address drawn by lot (see anyMAC)
	{regexp.MustCompile(`^(local fe80::drawn|anycast fe80::) .*| tentative`), ""}, // comes, and goes, a second after the address
	{regexp.MustCompile(`^(33:33|01:00:5e):.*`), ""},                              // groups that the kernel listens to, made of addresses
	{regexp.MustCompile(`_timer +[0-9.]+`), "_timer"},                             // of a bridge; runs
	{regexp.MustCompile(`\b(port_id|port_no|designated_port) \w+`), "$1"},         // number of a bridge's port, in the order they came; only STP, which is off, has a use for it
	{regexp.MustCompile(`"namespace": \d+`), `"namespace": 0`},                    // settings.json: which host this is
	{regexp.MustCompile(`net:\[\d+\]`), "net:[]"},                                 // inode of a mounted namespace
	{regexp.MustCompile(` (shared|master):\d+`), ""},                              // number of a group of mounts
	{regexp.MustCompile(`^mount \d+ \d+ `), "mount "},                             // number of a mount, and of the one it is in
}

var (
	// counted is what counts, or what the kernel chooses by itself.
	counted = regexp.MustCompile(`^/proc/sys/net/netfilter/nf_conntrack_(count|buckets):.*`)
	anyMAC  = regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	// fixedMAC are those that plans give, and of groups; others are drawn by lot.
	fixedMAC = regexp.MustCompile(`^(02:53|33:33|01:00:5e|00:00:00|ff:ff:ff):`)
)

func alike(line string) string {
	if strings.HasPrefix(line, "/proc/sys/") { // most lines
		return strings.TrimSpace(counted.ReplaceAllString(line, ""))
	}
	line = anyMAC.ReplaceAllStringFunc(line, func(mac string) string {
		if fixedMAC.MatchString(mac) {
			return mac
		}
		return "drawn"
	})
	for _, u := range unlike {
		line = u.what.ReplaceAllString(line, u.instead)
	}
	return strings.TrimRight(line, " \n")
}

// kernelText is all that the host and the sandboxes of a run directory hold, and
// what is in the directory. It is called in the host.
func kernelText(t *testing.T, dir string) []string {
	t.Helper()
	lines := heldBy(t, "host", "/proc/thread-self/ns/net")
	sandboxes, err := filepath.Glob(filepath.Join(dir, "netns", "*"))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sandboxes {
		if strings.Contains(string(mounts), " "+path+" ") {
			lines = append(lines, heldBy(t, filepath.Base(path), path)...)
		}
	}
	var mounted []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			mounted = append(mounted, alike("mount "+strings.ReplaceAll(line, dir, "RUN_DIR")))
		}
	}
	slices.Sort(mounted)
	lines = append(lines, mounted...)
	lines = append(lines, strings.Split(sh(t, "cd "+dir+"; find . | sort"), "\n")...)
	return append(lines, remembered(t, dir)...)
}

// stillText is kernelText when the kernel has done its part, a moment after it was asked.
func stillText(t *testing.T, dir string) []string {
	t.Helper()
	text := kernelText(t, dir)
	for range 20 {
		time.Sleep(200 * time.Millisecond)
		before := text
		if text = kernelText(t, dir); slices.Equal(before, text) {
			break
		}
	}
	return text
}

// remembered is what settings.json says of the host's settings, but for those that
// went with their device, and those of our own devices: they go before anything is
// restored, and are born with other values when forwarding is on already.
func remembered(t *testing.T, dir string) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, kernel.SettingsName))
	if os.IsNotExist(err) {
		return nil
	}
	var stored struct{ Settings []kernel.Setting }
	if err := errors.Join(err, json.Unmarshal(text, &stored)); err != nil {
		t.Fatal(err)
	}
	present := sh(t, "find /proc/sys/net -type f")
	for _, s := range stored.Settings {
		if strings.Contains(present, s.Key+"\n") && !strings.Contains(s.Key, "/conf/sl-") {
			lines = append(lines, fmt.Sprintf("remembered: %v", s))
		}
	}
	return lines
}

// heldBy is what one namespace holds.
func heldBy(t *testing.T, name, path string) []string {
	t.Helper()
	n, err := space.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	text, err := n.Run(t.Context(), "sh", "-ec", holding)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	unsorted, ordered, _ := strings.Cut(text, inOrder)
	for line := range strings.Lines(unsorted) {
		if line = alike(line); line != "" {
			lines = append(lines, name+": "+line)
		}
	}
	slices.Sort(lines)
	for line := range strings.Lines(bySetName(ordered)) {
		lines = append(lines, name+": "+alike(line))
	}
	return lines
}

// bySetName sorts the sets of each table, which nft lists in the order in which they
// were made: learned ones stay when the others are made anew, and are first then.
func bySetName(listing string) string {
	var text strings.Builder
	var sets []string
	inSet := false
	for line := range strings.Lines(listing) {
		begins := strings.HasPrefix(line, "\tset ") || strings.HasPrefix(line, "\tmap ")
		switch {
		case begins:
			inSet = true
			sets = append(sets, line)
		case inSet:
			sets[len(sets)-1] += line
			inSet = line != "\t}\n"
		case len(sets) > 0 && line == "\n":
			sets[len(sets)-1] += line
		default:
			slices.Sort(sets)
			text.WriteString(strings.Join(sets, ""))
			text.WriteString(line)
			sets = nil
		}
	}
	return text.String()
}
