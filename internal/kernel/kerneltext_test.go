package kernel_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

// holding is a shell command that writes down what a namespace holds. Its lines
// are sorted, since a device that was made again stands last in every list.
const holding = `
	ip -d -o link | sed 's/^/link /'
	ip -d -o address | sed 's/^/address /'
	ip -d rule | sed 's/^/rule /'; ip -d -6 rule | sed 's/^/rule6 /'
	ip -d route show table all | sed 's/^/route /'
	ip -d neighbour show nud permanent | sed 's/^/neighbour /'
	bridge -d fdb show | sed 's/^/fdb /'
	grep -rsH '' /proc/sys/net || test $? = 2 # some files may only be written`

// rules come in an order that means something.
const rules = `nft -s list ruleset; if command -v ipvsadm >/dev/null && test -e /proc/net/ip_vs; then ipvsadm -Sn; ipvsadm -l --timeout; fi`

// unlike are the only differences that two kernels with the same plan may show:
// what the kernel numbers, draws by lot or counts. Everything else is compared.
var unlike = []struct {
	what    *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`^((?:link|address)) \d+: `), "$1 "},                             // index of a device
	{regexp.MustCompile(`@if\d+`), ""},                                                   // index of a veth's peer
	{regexp.MustCompile(` link-netnsid \d+`), ""},                                        // number of a veth's peer's namespace
	{regexp.MustCompile(`\b(sum_[0-9a-f]+)(_\d+)*`), "$1"},                               // indexes that nft rules were loaded with,
	{regexp.MustCompile(`\brules_[0-9a-f]+`), "rules_"},                                  // and a sum over rules that hold them
	{regexp.MustCompile(`fe80::[0-9a-f:]*ff:fe[0-9a-f:]*`), "fe80::drawn"},               // made of a MAC address drawn by lot (see anyMAC)
	{regexp.MustCompile(`^route (local fe80::drawn|anycast fe80::) .*| tentative`), ""},  // comes, and goes, a second after the address
	{regexp.MustCompile(`^fdb (33:33|01:00:5e):.*`), ""},                                 // groups that the kernel listens to, made of addresses
	{regexp.MustCompile(`_timer +[0-9.]+`), "_timer"},                                    // of a bridge; runs
	{regexp.MustCompile(`^/proc/sys/net/netfilter/nf_conntrack_(count|buckets):.*`), ""}, // counts; chosen by the kernel
	{regexp.MustCompile(`"namespace": \d+`), `"namespace": 0`},                           // settings.json: which host this is
	{regexp.MustCompile(`net:\[\d+\]`), "net:[]"},                                        // inode of a mounted namespace
	{regexp.MustCompile(`^mount \d+ \d+ `), "mount "},                                    // number of a mount, and of the one it is in
}

var (
	anyMAC = regexp.MustCompile(`\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b`)
	// fixedMAC are those that plans give, and those of none and of all; others are drawn by lot.
	fixedMAC = regexp.MustCompile(`^(02:53|00:00:00|ff:ff:ff):`)
)

func alike(line string) string {
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
	lines := heldBy(t, "host", "")
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
			lines = append(lines, heldBy(t, filepath.Base(path), "nsenter --net="+path)...)
		}
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			lines = append(lines, alike("mount "+strings.ReplaceAll(line, dir, "RUN_DIR")))
		}
	}
	lines = append(lines, strings.Split(sh(t, "cd "+dir+"; find . | sort"), "\n")...)
	stored, err := os.ReadFile(filepath.Join(dir, kernel.SettingsName))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(stored)) {
		lines = append(lines, alike(line))
	}
	return lines
}

// heldBy is what one namespace holds; enter begins a command that runs in it.
func heldBy(t *testing.T, name, enter string) []string {
	t.Helper()
	var sorted, lines []string
	for line := range strings.Lines(sh(t, enter+" sh -ec '"+strings.ReplaceAll(holding, "'", `'\''`)+"'")) {
		if line = alike(line); line != "" {
			sorted = append(sorted, name+": "+line)
		}
	}
	slices.Sort(sorted)
	for line := range strings.Lines(sh(t, enter+" sh -ec '"+rules+"'")) {
		lines = append(lines, name+": "+alike(line))
	}
	return append(sorted, lines...)
}
