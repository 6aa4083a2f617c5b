// Command bench measures the mesh against what it is made of, in one run:
// requests per second from a client to an HTTP server on another node,
// directly, over one VXLAN hop, by Docker Swarm's path built by hand, and by the
// mesh with the endpoint on another node and on the one that is dialled, with both
// balancers; or what each stage of the mesh costs, by taking one after another away.
//
//	SLUICE_BIN=./sluice bench [stages]          (in "sluicevm -1", where time is instructions)
//
// Only ratios of one run mean anything. The agents are stopped while it measures:
// the data plane needs none.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) == 2 && args[0] == "serve" { // the workloads are this program too
		return probe.ServeUntilSignal(args[1])
	}
	do := measure
	if len(args) == 1 && args[0] == "stages" {
		do = apart
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	c, err := cluster.Start(ctx, cluster.Config{
		Sluice: os.Getenv("SLUICE_BIN"), Balancer: "ipvs", Workload: []string{self, "serve"},
		Progress: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, c, out), c.Close())
}

// path is one way from the client to a server; balancer is empty where it does not pass the mesh.
type path struct{ name, url, balancer string }

// measure compares the paths with IPVS, then those of the mesh with nftables.
func measure(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	paths, err := build(ctx, c)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "PATH\tKEEP-ALIVE\tOF DIRECT\tNEW CONNECTIONS\tOF DIRECT")
	var direct [2]float64
	for i, p := range paths {
		if p.balancer != "" {
			if err := use(ctx, c, p); err != nil {
				return err
			}
		}
		rate, err := quietRates(ctx, c, p.url)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if i == 0 {
			direct = rate
		}
		fmt.Fprintf(table, "%s\t%.0f\t%.3f\t%.0f\t%.3f\n", p.name, rate[0], rate[0]/direct[0], rate[1], rate[1]/direct[1])
	}
	return table.Flush()
}

// apart measures what the stages of the way to another node cost.
func apart(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	paths, err := build(ctx, c)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	places, err := findPlaces(ctx, c)
	if err != nil {
		return err
	}
	return quietly(c, func() error { return measureStages(ctx, c, places, paths[remote].url, out) })
}

// use makes all nodes balance as the path does.
func use(ctx context.Context, c *cluster.Cluster, p path) error {
	if c.Balancer == p.balancer {
		return nil
	}
	if err := c.Switch(ctx, p.balancer); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	return answers(ctx, c, p)
}

// quietly does something while the agents are stopped.
func quietly(c *cluster.Cluster, do func() error) error {
	if err := c.Pause(); err != nil {
		return err
	}
	return errors.Join(do(), c.Resume())
}

func quietRates(ctx context.Context, c *cluster.Cluster, url string) (rate [2]float64, err error) {
	err = quietly(c, func() error {
		rate, err = rates(ctx, c, url)
		return err
	})
	return rate, err
}

// remote is the index of the path whose stages are measured.
const remote = 3

// build makes all paths that are compared; the first is what they are compared with.
func build(ctx context.Context, c *cluster.Cluster) ([]path, error) {
	one, three := c.Node("n1"), c.Node("n3")
	if err := errors.Join(c.Serve(three.Space, "direct"), hop(ctx, c)); err != nil {
		return nil, err
	}
	swarm, err := swarmPath(ctx, c)
	if err != nil {
		return nil, err
	}
	if _, err := one.Sluice(ctx, "service", "create", "bench", "--publish", "8080:80/tcp"); err != nil {
		return nil, err
	}
	if err := c.Run(ctx, three, "bench", "bench.3"); err != nil {
		return nil, err
	}
	far, near := fmt.Sprintf("http://%s:%d/", one.V4, cluster.Published), fmt.Sprintf("http://%s:%d/", three.V4, cluster.Published)
	paths := []path{
		{"direct, no overlay", fmt.Sprintf("http://%s:%d/", three.V4, probe.TargetPort), ""},
		{"one VXLAN hop", "http://" + hopServer + "/", ""},
		{"Swarm's path by hand", swarm, ""},
		{"mesh (IPVS), endpoint on another node", far, "ipvs"},
		{"mesh (IPVS), endpoint on the node dialled", near, "ipvs"},
		{"mesh (nft), endpoint on another node", far, "nft"},
		{"mesh (nft), endpoint on the node dialled", near, "nft"},
	}
	for _, p := range paths {
		if err := answers(ctx, c, p); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// answers waits until a path works, for a minute at most.
func answers(ctx context.Context, c *cluster.Cluster, p path) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		_, err := c.Client.Run(ctx, "curl", "-fsS", "-m", "5", "-o", "/dev/null", p.url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: no answer: %w", p.name, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

var rateLine = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

// requests asks for two seconds over eight connections and returns requests per second.
func requests(ctx context.Context, c *cluster.Cluster, url, connection string) (float64, error) {
	text, err := c.Client.Run(ctx, "wrk", "-t1", "-c8", "-d2s", "-H", "Connection: "+connection, url)
	if err != nil {
		return 0, err
	}
	found := rateLine.FindStringSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("wrk printed no rate: %s", text)
	}
	return strconv.ParseFloat(found[1], 64)
}
