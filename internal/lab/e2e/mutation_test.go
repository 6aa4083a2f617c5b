package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/lab/table"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// mutation is one object of the data path that is taken away by hand while no
// agent runs, and the cells that must notice.
type mutation struct {
	name  string
	in    *space.Space
	run   []command // in that namespace
	wrong []string  // names of cells
}

// command is a program and its arguments.
type command []string

// testMutations shows that the table sees each part of the data path: without it
// the table differs, and the agents, running again, put it back.
func testMutations(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	checks := table.Hasty(c)
	for _, m := range mutations(t, c) {
		t.Run(m.name, func(t *testing.T) {
			some := table.Select(checks, append(outside(c), m.wrong...)...)
			mutate(t, c, m, some)
			if wrong := table.Run(some).Wrong(); len(wrong) > 0 {
				t.Errorf("after the repair: %s", describe(wrong))
			}
		})
	}
}

// mutate takes the object away with the agents standing still, looks, and lets them repair.
func mutate(t *testing.T, c *cluster.Cluster, m mutation, some []table.Check) {
	t.Helper()
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := c.Settle(t.Context()); err != nil {
			t.Fatalf("after %s was taken away: %v", m.name, err)
		}
	}()
	for _, run := range m.run {
		if _, err := m.in.Run(t.Context(), run[0], run[1:]...); err != nil {
			t.Fatal(err)
		}
	}
	wrong := table.Run(some).Wrong()
	t.Logf("without %s: %s", m.name, describe(wrong))
	seen := map[string]bool{}
	for _, cell := range wrong {
		seen[cell.Name()] = true
	}
	for _, name := range m.wrong {
		if !seen[name] {
			t.Errorf("without %s the cell %q is as before", m.name, name)
		}
	}
}

func describe(cells []table.Cell) string {
	lines := make([]string, len(cells))
	for i, c := range cells {
		lines[i] = fmt.Sprintf("%s: %s", c.Name(), c.Got)
	}
	return fmt.Sprintf("%d cells differ\n  %s", len(cells), strings.Join(lines, "\n  "))
}

// outside are the cells of the client at every node: tried with every mutation.
func outside(c *cluster.Cluster) []string {
	var names []string
	for _, n := range c.Nodes {
		names = append(names, client(n, cluster.IPv4)...)
		names = append(names, client(n, cluster.IPv6)...)
	}
	return names
}

// client are the two cells of the client at one address of a node.
func client(n *cluster.Node, f cluster.Family) []string {
	return []string{
		fmt.Sprintf("client -> %s %s tcp", n.Name, n.Addr(f)),
		fmt.Sprintf("client -> %s %s udp", n.Name, n.Addr(f)),
	}
}

// numbers are what the names of kernel objects are made from.
type numbers struct {
	slot1, slot2, slot3 uint16    // of the nodes
	backend             []command // take web.2 away from the balancer of n1, IPv4
	web2                netip.Addr
}

func look(ctx context.Context, c *cluster.Cluster) (numbers, error) {
	n := numbers{web2: c.Endpoint("web.2").On("ingress", cluster.IPv4)}
	for name, slot := range map[string]*uint16{"n1": &n.slot1, "n2": &n.slot2, "n3": &n.slot3} {
		status, err := c.Node(name).Status(ctx)
		if err != nil {
			return n, err
		}
		*slot = uint16(status.GetNode().GetSlot())
	}
	var err error
	if c.Balancer == "nft" {
		n.backend, err = slots(ctx, c.Node("n1").Ingress, n.web2)
	} else {
		n.backend, err = backend(ctx, c.Node("n1").Ingress, n.web2)
	}
	return n, err
}

// slots takes the endpoint away from every service.
func slots(ctx context.Context, sbox *space.Space, endpoint netip.Addr) ([]command, error) {
	text, err := sbox.Run(ctx, "nft", "list", "map", "inet", plan.TableName, "slots4")
	if err != nil {
		return nil, err
	}
	element := regexp.MustCompile(`(0x[0-9a-f]+ \. 0x[0-9a-f]+) : ` + regexp.QuoteMeta(endpoint.String()) + ` \. 80\b`)
	var commands []command
	for _, found := range element.FindAllStringSubmatch(text, -1) {
		commands = append(commands, nft("delete element inet %s slots4 { "+found[1]+" }")...)
	}
	if len(commands) == 0 {
		return nil, fmt.Errorf("no slot of n1 leads to %s:\n%s", endpoint, text)
	}
	return commands, nil
}

// backend takes the endpoint away from every virtual server.
func backend(ctx context.Context, sbox *space.Space, endpoint netip.Addr) ([]command, error) {
	text, err := sbox.Run(ctx, "ipvsadm", "-Sn")
	if err != nil {
		return nil, err
	}
	var commands []command
	for line := range strings.Lines(text) {
		f := strings.Fields(line) // -a -f MARK -r ADDR:PORT -m -w WEIGHT
		if len(f) > 4 && f[0] == "-a" && f[4] == endpoint.String()+":80" {
			commands = append(commands, command{"ipvsadm", "-d", "-f", f[2], "-r", f[4]})
		}
	}
	if len(commands) == 0 {
		return nil, fmt.Errorf("IPVS of n1 has no backend %s:\n%s", endpoint, text)
	}
	return commands, nil
}
