// Command benchnames measures an endpoint's name server with dnsperf, on one node whose upstreams
// are all dead: local names alone, beside questions about the world that nobody answers, over UDP
// and TCP, and with 10,000 idle TCP connections of another endpoint.
//
//	SLUICE_BIN=./sluice benchnames
//
// Times are this machine's; a lost question is one anywhere.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

const names = 20 // local ones that are asked for in turn

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchnames:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	self, err := os.Executable() // a cluster copies a program for workloads; there are none
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	c, err := cluster.Start(ctx, cluster.Config{
		Sluice: os.Getenv("SLUICE_BIN"), Balancer: "nft", Count: 1, Workload: []string{self},
		Progress: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	return errors.Join(measure(ctx, c, out), c.Close())
}

// measure has one endpoint ask, and another in its way.
func measure(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	asker, other, err := endpoints(ctx, c)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	local, world, err := questions(c.Dir)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "LOCAL NAMES, 1,000 A SECOND, OVER\tASKED\tLOST\tP50\tP99\tMAX")
	row := func(what, proto string) error {
		got, err := ask(ctx, asker, load{proto: proto, file: local, perSecond: 1000, seconds: 10})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		fmt.Fprintf(table, "%s%s\t%s\n", proto, what, got)
		return nil
	}
	both := func(what string) error { return errors.Join(row(what, "udp"), row(what, "tcp")) }
	if err := both(""); err != nil {
		return err
	}
	err = beside(ctx, other, load{proto: "udp", file: world, perSecond: 100, seconds: 60}, func() error {
		return both(", beside 100 a second about the world")
	})
	if err != nil {
		return err
	}
	err = idle(other, func(n int) error { return both(fmt.Sprintf(", beside %d idle connections of another", n)) })
	return errors.Join(err, table.Flush())
}

// endpoints attaches those that have the names, the one that asks, and one more.
func endpoints(ctx context.Context, c *cluster.Cluster) (asker, other *space.Space, err error) {
	n := c.Node("n1")
	if _, err := n.Sluice(ctx, "network", "create", "named", "--driver", "bridge"); err != nil {
		return nil, nil, err
	}
	var spaces []*space.Space
	for i := range names {
		name := fmt.Sprintf("web%d", i)
		if _, err := n.Sluice(ctx, "service", "create", name, "--network", "named"); err != nil {
			return nil, nil, err
		}
		s, err := c.Space(name)
		if err != nil {
			return nil, nil, err
		}
		if _, err := n.Sluice(ctx, "endpoint", "attach", "--service", name, "--name", name+".1", "--netns", s.Path); err != nil {
			return nil, nil, err
		}
		spaces = append(spaces, s)
	}
	return spaces[0], spaces[1], c.AtRest(ctx)
}
