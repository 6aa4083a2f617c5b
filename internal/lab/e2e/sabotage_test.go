package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// The bars: what the kernel tells of is back within the first, what is found by
// the periodic look within the second.
const (
	heard = time.Second
	found = 10 * time.Second
)

const (
	sabotageRate = 500                    // requests a second
	lostAfter    = 900 * time.Millisecond // before a SYN is sent again, so that what is lost counts as lost
	quiet        = 500 * time.Millisecond // without a failure: traffic is back
)

// sabotage is what somebody takes away from a living node.
type sabotage struct {
	name string
	in   *space.Space
	run  []command // there
	bar  time.Duration
	from *space.Space                // who notices
	to   []load.Target               // and whom they ask
	rest func(context.Context) error // ends when nothing is left to repair; nil: the cluster's Settle
}

// testSabotage takes one thing after another away under requests, and prints what
// each cost.
func testSabotage(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tREQUESTS A SECOND\tFAILED\tLONGEST GAP\tBACK AFTER\tBAR")
	for _, s := range sabotages(t, c) {
		t.Run(s.name, func(t *testing.T) { fmt.Fprint(table, trySabotage(t, c, s)) })
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", text.String())
	if *document && !t.Failed() {
		writeDocument(t, text.String())
	}
}

// trySabotage gives the line of the table. A machine that has much else to do may keep
// a single request waiting for a second, so a bar counts as missed when it is so again.
func trySabotage(t *testing.T, c *cluster.Cluster, s sabotage) string {
	t.Helper()
	const tries = 3
	var line, missed string
	for range tries {
		tally, then := commit(t, c, s)
		back := tally.Back(then)
		line = fmt.Sprintf("%s\t%.0f\t%d\t%d ms\t%d ms\t%d s\n", s.name, tally.Rate(), len(tally.Failed()),
			tally.Gap(then).Milliseconds(), back.Milliseconds(), int(s.bar.Seconds()))
		t.Logf("back after %s, the slowest answer took %s; failed, counted from then:\n%s", back.Round(time.Millisecond),
			tally.Slowest().Round(time.Millisecond), tally.Describe(then))
		switch {
		case back > s.bar:
			missed = fmt.Sprintf("back after %s, want at most %s", back, s.bar)
		case tally.Rate() < 0.9*sabotageRate:
			missed = fmt.Sprintf("only %.0f requests a second were sent, want %d", tally.Rate(), sabotageRate)
		default:
			return line
		}
		t.Log(missed)
	}
	t.Errorf("%d times in a row: %s", tries, missed)
	return line
}

// Not -update: that is for what is the same on every run.
var document = flag.Bool("document", false, "write the measured table into docs/REPAIR.md")

// writeDocument puts the table into docs/REPAIR.md.
func writeDocument(t *testing.T, table string) {
	t.Helper()
	path := filepath.Join("..", "..", "..", "docs", "REPAIR.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- table -->\n", "<!-- end of table -->\n"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	if err := os.WriteFile(path, []byte(before+begin+"```\n"+table+"```\n"+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// commit takes it away once requests run, and ends when they are answered again.
func commit(t *testing.T, c *cluster.Cluster, s sabotage) (load.Tally, time.Time) {
	t.Helper()
	l := send(t, s.from, load.Spec{Rate: sabotageRate, Wait: lostAfter, Targets: s.to})
	time.Sleep(2*quiet + lostAfter) // the first of each kind are slower, and the agent has forgotten the last one
	for _, run := range s.run[:len(s.run)-1] {
		if _, err := s.in.Run(t.Context(), run[0], run[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	last := s.run[len(s.run)-1]
	then := time.Now()
	if _, err := s.in.Run(t.Context(), last[0], last[1:]...); err != nil {
		t.Fatal(err)
	}
	// A request that is lost is known as such only after a while.
	time.Sleep(heard + lostAfter)
	for time.Since(then) < s.bar+lostAfter+quiet && time.Since(then) < l.Tally().Back(then)+lostAfter+quiet {
		time.Sleep(quiet / 5)
	}
	tally, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	rest := s.rest
	if rest == nil {
		rest = c.Settle
	}
	if err := rest(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tally, then
}

// sabotages are all, from the host inwards.
func sabotages(t *testing.T, c *cluster.Cluster) []sabotage {
	t.Helper()
	n, err := look(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	n1, n2, two, three := c.Node("n1"), c.Node("n2"), c.Endpoint("web.2"), c.Endpoint("web.3")
	network := n2.Network["ingress"]
	netns := func(node *cluster.Node, name string) string { return filepath.Join(node.RunDir(), "netns", name) }
	networkName := filepath.Base(network.Path)
	wayOut := strings.Replace(networkName, plan.NetworkSandboxes, plan.WayOutHosts, 1)
	sh := func(text string) []command { return []command{{"sh", "-ec", text}} }
	nodes, inner := fromClient(c, n1, n2), fromEndpoint(c, two, three, n1)
	client := c.Client.Space
	list := []sabotage{
		{"nft flush ruleset on the host", n1.Space, sh("nft flush ruleset"), heard, client, nodes, nil},
		{"nft flush ruleset in ingress-sbox", n1.Ingress, sh("nft flush ruleset"), heard, client, nodes, nil},
		{"nft flush ruleset in a network sandbox", network, sh("nft flush ruleset"), heard, client, nodes, nil},
		{"uplink deleted", n1.Space, sh("ip link del " + plan.UplinkHost), heard, client, nodes, nil},
		{"door deleted", n2.Ingress, sh("ip link del " + plan.DoorOut), heard, client, nodes, nil},
		{"VXLAN device of ingress-sbox deleted", n1.Ingress, sh("ip link del " + plan.Tunnel), heard, client, nodes, nil},
		{"VXLAN device of a network sandbox deleted", network, sh("ip link del " + plan.Tunnel), heard, client, nodes, nil},
		{"way out deleted", n2.Space, sh("ip link del " + wayOut), heard, two.Space, inner, nil},
		{"endpoint's link deleted", two.Space, sh("ip link del sluice0"), heard, client, nodes, nil},
		{"ingress-sbox unmounted", n1.Space, sh("umount -l " + netns(n1, plan.IngressSandbox)), heard, client, nodes, nil},
		{"network sandbox unmounted", n2.Space, sh("umount -l " + netns(n2, networkName)), heard, client, nodes, nil},
		{"forwarding switched off in a network sandbox", network, sh("sysctl -qw net.ipv4.ip_forward=0"), heard, client, nodes, nil},
		{"FDB entry deleted", n1.Ingress, fdb(plan.NetworkMAC(n.slot2)), found, client, nodes, nil},
		{"FDB entry of the way back deleted", network, fdb(plan.EntryMAC(n.slot1)), found, client, nodes, nil},
		{"block routes deleted", n1.Ingress, sh("ip route flush proto 83; ip -6 route flush proto 83"), found, client, nodes, nil},
		{"neighbours deleted", n1.Ingress, sh("ip neigh flush all nud permanent"), found, client, nodes, nil},
	}
	if c.Balancer == "ipvs" {
		list = append(list, sabotage{"ipvsadm -C", n1.Ingress, sh("ipvsadm -C"), found, client, nodes, nil})
	}
	return list
}
