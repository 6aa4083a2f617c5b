package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// stage is a part of the way to an endpoint on another node that can be taken
// away with the way still working.
type stage struct {
	name   string
	where  *space.Space
	remove string
}

// places are the namespaces that a request to n1 for the endpoint on n3 passes.
type places struct{ entry, balancer, host, network *space.Space }

func findPlaces(ctx context.Context, c *cluster.Cluster) (p places, err error) {
	one, three := c.Node("n1"), c.Node("n3")
	p.entry, p.host = one.Space, three.Space
	if p.balancer, err = one.Sandbox(ctx, plan.IngressSandbox); err != nil {
		return p, err
	}
	status, err := three.Status(ctx)
	if err != nil {
		return p, err
	}
	for _, s := range status.GetSandboxes() {
		if strings.HasPrefix(s.GetName(), plan.NetworkSandboxes) {
			p.network, err = space.Open(s.GetPath())
		}
	}
	return p, err
}

// gone removes chains of a node's inet table.
func gone(chains ...string) string {
	var text strings.Builder
	for _, c := range chains {
		fmt.Fprintf(&text, "nft 'flush chain inet %[1]s %[2]s; delete chain inet %[1]s %[2]s'\n", plan.TableName, c)
	}
	return text.String()
}

// stages in the order in which they are taken away; none is put back.
func (p places) stages() []stage {
	return []stage{
		{"endpoint's node: nat postrouting (one client port by two nodes)", p.network, gone("postrouting")},
		{"endpoint's node: isolation set, own errors, input", p.network, gone("isolate", "own_errors", "input")},
		{"endpoint's node: source checks", p.network, gone("antispoof")},
		{"endpoint's node: host's tunnel port and forgery checks", p.host, gone("tunnels", "forgery")},
		{"entry: sandbox's source checks and leak chain", p.balancer, gone("antispoof", "leak")},
		{"entry: sandbox's forward chain", p.balancer, gone("forward")},
		{"entry: host's forward chain", p.entry, gone("forward", "forged")},
		{"entry: host's guard of the loopback addresses", p.entry, gone("guard")},
		{"entry: host's tunnel port and forgery checks", p.entry, gone("tunnels", "forgery")},
	}
}

// cost is what a request takes, in microseconds of the VM's clock: of eight
// connections one is served at a time, so the rate is the inverse.
func cost(rate float64) float64 { return 1e6 / rate }

// measureStages takes stage after stage away and prints what each had cost.
func measureStages(ctx context.Context, c *cluster.Cluster, p places, url string, out io.Writer) error {
	before, err := rates(ctx, c, url)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "STAGE\tOF A REQUEST, KEEP-ALIVE\tOF A NEW CONNECTION")
	fmt.Fprintf(table, "all of it\t%.1f µs\t%.1f µs\n", cost(before[0]), cost(before[1]))
	for _, s := range p.stages() {
		if err := script(ctx, s.where, s.remove); err != nil {
			return fmt.Errorf("remove %s: %w", s.name, err)
		}
		after, err := rates(ctx, c, url)
		if err != nil {
			return fmt.Errorf("without %s: %w", s.name, err)
		}
		fmt.Fprintf(table, "%s\t%+.1f µs\t%+.1f µs\n", s.name, cost(before[0])-cost(after[0]), cost(before[1])-cost(after[1]))
		before = after
	}
	fmt.Fprintf(table, "what is left: capture, mark, IPVS, VXLAN, zones, way back\t%.1f µs\t%.1f µs\n", cost(before[0]), cost(before[1]))
	return table.Flush()
}

// rates are requests per second over kept and over new connections.
func rates(ctx context.Context, c *cluster.Cluster, url string) (rate [2]float64, err error) {
	for i, connection := range []string{"keep-alive", "close"} {
		if rate[i], err = requests(ctx, c, url, connection); err != nil {
			return rate, err
		}
	}
	return rate, nil
}
