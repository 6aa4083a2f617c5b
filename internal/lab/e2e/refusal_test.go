package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
)

// refusal is a call that must be refused, and a word that its message must have.
type refusal struct {
	name string
	args []string
	code []int // exit statuses that are right
	word string
}

// The form of every refusal: what was attempted, why not, what to do.
func sentence() *regexp.Regexp {
	return regexp.MustCompile(`^sluice: [^\n]+: [^\n]+: [^\n]+\n$`)
}

// testBadInput wants each refusal to say what to do and to change nothing.
func testBadInput(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n1 := c.Node("n1")
	before := records(t, n1)
	for _, r := range refusals(t) {
		t.Run(r.name, func(t *testing.T) { refused(t, n1, r) })
	}
	t.Run("two agents on one data directory", func(t *testing.T) { twoAgents(t, n1) })
	if after := records(t, n1); after != before {
		t.Errorf("the cluster's records changed:\n%s\nbefore:\n%s", after, before)
	}
	if err := c.Settle(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// records are all that an operator can change, as text.
func records(t *testing.T, n *cluster.Node) string {
	t.Helper()
	var all string
	for _, noun := range []string{"network", "service", "endpoint"} {
		text, err := n.Sluice(t.Context(), noun, "ls", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		all += text
	}
	return all
}

func refused(t *testing.T, n *cluster.Node, r refusal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, err := n.Try(ctx, r.args...)
	if err != nil {
		t.Fatal(err)
	}
	judge(t, got, r)
}

func judge(t *testing.T, got cluster.Result, r refusal) {
	t.Helper()
	right := false
	for _, code := range r.code {
		right = right || got.Code == code
	}
	if !right {
		t.Errorf("sluice %q: exit %d, want one of %v; stdout %q, stderr %q", r.args, got.Code, r.code, got.Stdout, got.Stderr)
	}
	if !sentence().MatchString(got.Stderr) {
		t.Errorf("sluice %q says %q, want one line \"sluice: what: why: what to do\"", r.args, got.Stderr)
	}
	if !strings.Contains(got.Stderr, r.word) {
		t.Errorf("sluice %q says %q, want %q in it", r.args, got.Stderr, r.word)
	}
}

func refusals(t *testing.T) []refusal {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("not a namespace"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed, either := []int{1}, []int{1, 2}
	list := []refusal{
		{"unknown service, inspect", []string{"service", "inspect", "nosuch"}, failed, "nosuch"},
		{"unknown service, rm", []string{"service", "rm", "nosuch"}, failed, "nosuch"},
		{"unknown service, attach", []string{"endpoint", "attach", "--service", "nosuch", "--netns", "/proc/self/ns/net"}, failed, "nosuch"},
		{"unknown service, run", []string{"run", "--service", "nosuch", "--", "true"}, failed, "nosuch"},
		{"unknown network", []string{"service", "create", "other", "--network", "nosuch"}, failed, "nosuch"},
		{"unknown endpoint", []string{"endpoint", "detach", "nosuch"}, failed, "nosuch"},
		{"network in use", []string{"network", "rm", "blue"}, failed, "blue"},
		{"name that is taken", []string{"service", "create", "web"}, failed, "web"},
		{"port that is taken", []string{"service", "create", "other", "--publish", "8080:80"}, failed, "8080"},
		{"port 22", []string{"service", "create", "other", "--publish", "22:80"}, failed, "22"},
		{"file that is no namespace", []string{"endpoint", "attach", "--service", "web", "--netns", file}, failed, file},
		{"file that is not there", []string{"endpoint", "attach", "--service", "web", "--netns", file + ".none"}, failed, file + ".none"},
		{"second init", []string{"init"}, failed, "cluster"},
		{"second join", []string{"join", "192.168.50.12", "--token", "x"}, either, ""},
		{"agent that is not running", []string{"--host", "unix://" + file + ".sock", "service", "ls"}, failed, file + ".sock"},
		{"unknown verb", []string{"service", "explode"}, []int{2}, "explode"},
	}
	for _, spec := range []string{"8080", "0:80", "70000:80", "-1:80", "9000:80/xyz", "9000-9002:80-81", "9000:80,mode=odd", "1.2.3:9000:80", "", "9000:80;drop"} {
		list = append(list, refusal{"SPEC " + spec, []string{"service", "create", "other", "--publish", spec}, either, ""})
	}
	for _, name := range []string{"web; reboot", "$(reboot)", "`reboot`", `a" accept`, "{", "../../etc", "a\nb", "-", "ä", strings.Repeat("x", 64)} {
		list = append(
			list,
			refusal{"service name " + name, []string{"service", "create", "--", name}, either, ""},
			refusal{"network name " + name, []string{"network", "create", "--", name}, either, ""},
			refusal{"endpoint name " + name, []string{"run", "--service", "web", "--name=" + name, "--", "true"}, either, ""},
		)
	}
	return list
}

// twoAgents starts a second agent on the data directory of n's: it must go away
// and leave the first alone.
func twoAgents(t *testing.T, n *cluster.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	args := []string{"agent", "--data-dir", n.DataDir(), "--run-dir", t.TempDir(), "--name", "second", "--advertise", n.V4.String(), "--gossip-port", "7999"}
	got, err := cluster.Finish(n.Space, n.Command(ctx, args...))
	if err != nil {
		t.Fatal(err)
	}
	got.Stderr = lastLine(got.Stderr)
	judge(t, got, refusal{"", args, []int{1}, n.DataDir()})
	if _, err := n.Status(t.Context()); err != nil {
		t.Errorf("the first agent: %v", err)
	}
}

// lastLine leaves out what an agent logs before it gives up.
func lastLine(text string) string {
	lines := strings.SplitAfter(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1] + "\n"
}
