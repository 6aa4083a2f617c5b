package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// takeTurns runs before on the first node while the second's agent is dead, and then after the other
// way about: neither knows what the other does. In the end both run.
func takeTurns(t *testing.T, b *base, before, after func(n *cluster.Node)) {
	t.Helper()
	n1, n2 := b.Nodes[0], b.Nodes[1]
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n2.KillAgent())
	before(n1)
	must(n1.KillAgent())
	must(n2.RestartAgent(t.Context()))
	after(n2)
	must(n1.RestartAgent(t.Context()))
	until(t, "both agree", func() error { return agree(t, n1, n2) })
}

// testNamesApart has two nodes apart let in what is written alike. Both then answer with the older
// one, and tell of it.
func testNamesApart(t *testing.T, b *base) {
	t.Helper()
	var older *resident
	s, err := b.Space("shown.late.1")
	if err != nil {
		t.Fatal(err)
	}
	younger := &resident{Space: s, name: "shown.late.1", network: "front"}
	takeTurns(t, b, func(n *cluster.Node) {
		mustRun(t, n, "service", "create", "shown", "--network", "front", "--stack", "late")
		older = b.attach(t, n, "shown", "front")
	}, func(n *cluster.Node) {
		mustRun(t, n, "service", "create", "shown.late", "--network", "front")
		mustRun(t, n, "endpoint", "attach", "--service", "shown.late", "--name", younger.name, "--netns", s.Path)
	})
	b.learn(t, younger, "shown.late")
	for i, n := range b.Nodes {
		for _, from := range []*resident{b.residents[fmt.Sprintf("web.%d", i+1)], b.residents[fmt.Sprintf("diary.%d", i+1)]} {
			told(t, from, "tasks.shown.late", fours(older))
			told(t, from, "tasks.shown.late.front", fours(older))
			told(t, from, "shown.1.late", fours(older))
			told(t, from, "shown.late.1", fours(younger))
		}
		for verb, args := range map[string][]string{"status": {"status"}, "events": {"events"}, "inspect": {"service", "inspect", "shown.late"}} {
			text, err := n.Sluice(t.Context(), args...)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, `name "shown.late" is held by the older claim of service "shown"`) || verb == "status" && !strings.Contains(text, "NameShadows") {
				t.Errorf("%s of %s does not name the conflict:\n%s", verb, n.Name, text)
			}
		}
	}
	b.sluice(t, "endpoint", "detach", "shown.1")
	b.sluice(t, "service", "rm", "shown")
	for i := range b.Nodes {
		told(t, b.residents[fmt.Sprintf("web.%d", i+1)], "tasks.shown.late", fours(younger))
	}
}

// kernelOf is what a node's kernel and its records have that an endpoint brings with it.
func kernelOf(t *testing.T, n *cluster.Node) string {
	t.Helper()
	networks, err := n.Sluice(t.Context(), "network", "ls")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(said(t, n.Space, "ip", "-o", "link")) {
		_, rest, _ := strings.Cut(line, ": ")
		name, _, _ := strings.Cut(rest, ": ")
		networks += name + "\n"
	}
	return networks + said(t, n.Space, "ls", n.RunDir()+"/netns")
}

// occupied is a workload's namespace that has a device held0.
func occupied(t *testing.T, b *base, name string) *space.Space {
	t.Helper()
	s, err := b.Space(name)
	if err != nil {
		t.Fatal(err)
	}
	said(t, s, "ip", "link", "add", "held0", "type", "veth", "peer", "name", "peer0")
	return s
}

// testRefusedByKernel attaches and connects endpoints that the kernel has no place for: the node is then
// as it was, with no network, device or namespace more.
func testRefusedByKernel(t *testing.T, b *base) {
	t.Helper()
	n2 := b.Nodes[1]
	b.sluice(t, "network", "create", "far")
	b.sluice(t, "network", "create", "yard", "--driver", "bridge")
	b.sluice(t, "service", "create", "far", "--network", "far")
	b.sluice(t, "service", "create", "yard", "--network", "yard")
	until(t, "n2 knows them", func() error { _, err := n2.Service(t.Context(), "yard"); return err })
	b.rest(t)
	before := kernelOf(t, n2)
	for what, args := range map[string][]string{
		"overlay":        {"endpoint", "attach", "--service", "far", "--name", "far.2", "--network", "far,interface=held0"},
		"bridge":         {"endpoint", "attach", "--service", "yard", "--name", "yard.2", "--network", "yard,interface=held0"},
		"connect":        {"endpoint", "connect", "web.2", "far", "--interface", "held0"},
		"connect bridge": {"endpoint", "connect", "web.2", "yard", "--interface", "held0"},
	} {
		switch what {
		case "connect", "connect bridge":
			said(t, b.residents["web.2"].Space, "ip", "link", "add", "held0", "type", "veth", "peer", "name", "peer0")
		default:
			args = append(args, "--netns", occupied(t, b, "held-"+what).Path)
		}
		r, err := n2.Try(t.Context(), args...)
		if err != nil || r.Code == 0 {
			t.Errorf("%s: exit %d, %v, want it refused", what, r.Code, err)
		}
		if now := kernelOf(t, n2); now != before {
			t.Errorf("%s: it was refused with %q; there was\n%s\nand is\n%s", what, r.Stderr, before, now)
		}
		if strings.HasPrefix(what, "connect") {
			said(t, b.residents["web.2"].Space, "ip", "link", "del", "held0")
		}
	}
}
