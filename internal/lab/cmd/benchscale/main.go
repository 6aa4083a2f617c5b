// Command benchscale measures one node that serves very many services: how long its
// kernel takes to load, to change and to look at, what it keeps for that, and how long a
// new connection takes beside the same node with one service.
//
//	benchscale [-services N] [-changes N] [-connections N] [BALANCER...]    (natively, or in "sluicevm")
//
// Without arguments it measures with each balancer that the running kernel has.
package main

import (
	"context"
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
type size struct{ services, connections, changes int }

func run(args []string, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	flags := flag.NewFlagSet("benchscale", flag.ContinueOnError)
	var n size
	flags.IntVar(&n.services, "services", 10_000, "how many services, of two endpoints each")
	flags.IntVar(&n.changes, "changes", 21, "how often one endpoint is changed, and what nobody changed is looked at")
	flags.IntVar(&n.connections, "connections", 3_000, "how many connections, one after the other")
	if err := flags.Parse(args); err != nil {
		return err
	}
	balancers := []mesh.Balancer{mesh.BalancerNFT}
	if kernel.HasIPVS() {
		balancers = append(balancers, mesh.BalancerIPVS)
	}
	if flags.NArg() > 0 {
		balancers = nil
		for _, name := range flags.Args() {
			balancers = append(balancers, mesh.Balancer(name))
		}
	}
	var columns []*figures
	for _, b := range balancers {
		f, err := measure(ctx, b, n)
		if err != nil {
			return fmt.Errorf("%s: %w", b, err)
		}
		columns = append(columns, f)
	}
	return show(out, n, columns)
}

// show prints the figures, a column for each balancer.
func show(out io.Writer, n size, columns []*figures) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "%d SERVICES, 2 ENDPOINTS EACH", n.services)
	for _, f := range columns {
		fmt.Fprintf(table, "\t%s", f.balancer)
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
