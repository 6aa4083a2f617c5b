// Command benchscale measures one node that has very many of something: how long its
// kernel takes to load, to change and to look at, what it keeps for that, and how long a
// new connection takes beside the same node with few.
//
//	benchscale [-services N] [-changes N] [-connections N] [BALANCER...]    (natively, or in "sluicevm")
//	benchscale [-changes N] ports          ports of mode host: few, many, and many as one range
//	benchscale [-changes N] networks       bridges and overlays: few and many
//	benchscale [-connections N] opening    new connections where few and many ports are published
//
// Without arguments it measures services with each balancer that the running kernel has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "benchscale:", err)
		os.Exit(1)
	}
}

// size is how much is measured.
type size struct{ services, networks, connections, changes, loads int }

func run(args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	flags := flag.NewFlagSet("benchscale", flag.ContinueOnError)
	var n size
	flags.IntVar(&n.services, "services", 10_000, "how many services, of two endpoints each")
	flags.IntVar(&n.networks, "networks", 1_000, "how many networks")
	flags.IntVar(&n.loads, "loads", 3, "how often everything is loaded")
	flags.IntVar(&n.changes, "changes", 21, "how often one endpoint is changed, and what nobody changed is looked at")
	flags.IntVar(&n.connections, "connections", 3_000, "how many connections, one after the other")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if min(n.services, n.changes, n.loads) < 1 || n.networks < few || n.connections < turns {
		return fmt.Errorf("nothing to measure: at least 1 service, 1 change, 1 load, %d networks and %d connections", few, turns)
	}
	columns, title, err := n.all(ctx, flags.Args())
	if len(columns) > 0 { // those that were measured before the one that failed
		err = errors.Join(show(out, title, columns), err)
	}
	return err
}

// all measures what is asked for.
func (n size) all(ctx context.Context, args []string) (columns []*figures, title string, err error) {
	if len(args) == 1 {
		switch args[0] {
		case "ports":
			columns, err = n.ports(ctx)
			return columns, "UDP PORTS OF MODE HOST", err
		case "networks":
			columns, err = n.crowds(ctx)
			return columns, "NETWORKS", err
		case "opening":
			columns, err = n.opening(ctx)
			return columns, "NEW CONNECTION", err
		}
	}
	balancers := []mesh.Balancer{mesh.BalancerNFT}
	if kernel.HasIPVS() {
		balancers = append(balancers, mesh.BalancerIPVS)
	}
	if len(args) > 0 {
		balancers = nil
		for _, name := range args {
			balancers = append(balancers, mesh.Balancer(name))
		}
	}
	for _, b := range balancers {
		f, err := measure(ctx, b, n)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", b, err)
		}
		columns = append(columns, f)
	}
	return columns, fmt.Sprintf("%d SERVICES, 2 ENDPOINTS EACH", n.services), nil
}

// show prints the figures side by side.
func show(out io.Writer, title string, columns []*figures) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprint(table, title)
	for _, f := range columns {
		fmt.Fprintf(table, "\t%s", f.title)
	}
	fmt.Fprintln(table)
	for i, row := range columns[0].rows {
		fmt.Fprint(table, row.name)
		for _, f := range columns {
			fmt.Fprintf(table, "\t%s", f.rows[i].value)
		}
		fmt.Fprintln(table)
	}
	return table.Flush()
}
