// Command demo builds a cluster of three nodes on this machine, publishes a
// service on it, sends requests from everywhere to everywhere, and prints who
// answered and whom they saw.
//
//	SLUICE_BIN=./sluice demo [--keep]
//
// It exits 0 where every cell of the table is as expected, 1 otherwise; what it
// made is gone afterwards. With --keep it waits for Ctrl-C before that.
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
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/table"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	// The workloads are this program too.
	if len(args) == 2 && args[0] == "serve" {
		return probe.ServeUntilSignal(args[1])
	}
	flags := flag.NewFlagSet("demo", flag.ExitOnError)
	keep := flags.Bool("keep", false, "leave the cluster running until Ctrl-C")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := configure(out)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c, err := cluster.Start(ctx, config)
	if err != nil {
		return err
	}
	err = show(ctx, c, out)
	if *keep && ctx.Err() == nil {
		linger(ctx, c, out)
	}
	return errors.Join(err, c.Close())
}

// configure finds the programs, and refuses what cannot work.
func configure(out io.Writer) (cluster.Config, error) {
	if os.Geteuid() != 0 {
		return cluster.Config{}, errors.New("network namespaces are for root: run it as root")
	}
	sluice := os.Getenv("SLUICE_BIN")
	if _, err := os.Stat(sluice); err != nil {
		return cluster.Config{}, fmt.Errorf("SLUICE_BIN=%q is no program: build ./cmd/sluice and name it there", sluice)
	}
	self, err := os.Executable()
	if err != nil {
		return cluster.Config{}, fmt.Errorf("find own program: %w", err)
	}
	begin := time.Now()
	return cluster.Config{
		Sluice: sluice, Workload: []string{self, "serve"},
		Progress: func(format string, args ...any) {
			fmt.Fprintf(out, "%5.1fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
		},
	}, nil
}

// show fills the cluster and prints the table; a wrong cell is an error.
func show(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	if err := c.Populate(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	checks := table.All(c)
	c.Progress("%d cells, thousands of packets", len(checks))
	t := table.Run(checks)
	c.Progress("done")
	fmt.Fprintln(out)
	if err := t.Print(out); err != nil {
		return err
	}
	if wrong := len(t.Wrong()); wrong > 0 {
		return fmt.Errorf("%d cells are not as expected", wrong)
	}
	return nil
}

// linger leaves the cluster to a person until Ctrl-C.
func linger(ctx context.Context, c *cluster.Cluster, out io.Writer) {
	fmt.Fprintln(out, "\nThe cluster is yours until Ctrl-C:")
	for _, n := range c.Nodes {
		fmt.Fprintf(out, "  nsenter --net=%s   # %s, then: export SLUICE_HOST=%s\n", n.Path, n.Name, n.Socket())
	}
	fmt.Fprintf(out, "  nsenter --net=%s curl http://%s:%d\n", c.Client.Path, c.Nodes[0].V4, cluster.Published)
	<-ctx.Done()
}
