// Package e2e runs the real program in a real cluster of three nodes.
//
// Most of it runs twice, with each balancer. Where the running kernel has no IP_VS,
// that half is put off to the virtual machine. The program is .build/sluice, which "make build" makes, or what
// SLUICE_BIN names.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/load"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

func TestMain(m *testing.M) {
	// The workloads are this program too.
	if len(os.Args) >= 3 && os.Args[1] == "serve" {
		if err := workload(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// And so are those who send requests.
	if len(os.Args) == 2 && os.Args[1] == "load" {
		if err := load.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// workload serves; without ports it has the usual two.
func workload(name string, numbers []string) error {
	var ports []uint16
	for _, text := range numbers {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return err
		}
		ports = append(ports, uint16(port))
	}
	return probe.ServeUntilSignal(name, ports...)
}

// program is the program under test.
func program(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SLUICE_BIN")
	if path == "" {
		path = filepath.Join("..", "..", "..", ".build", "sluice") // tests run in their package's directory
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is no program: run make build, or name one in SLUICE_BIN", path)
	}
	return path
}

// needIPVS is for a test of that balancer. It is a test of its own beside the one of
// nft, so that the VM runs nothing else.
func needIPVS(t *testing.T) {
	t.Helper()
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
}

// TestCluster is all that is tried on one populated cluster: making one is what
// takes the time.
func TestCluster(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	testCluster(t, "nft")
}

// TestClusterIPVS is what of it a balancer has a part in.
func TestClusterIPVS(t *testing.T) {
	needIPVS(t)
	testCluster(t, "ipvs")
}

func testCluster(t *testing.T, balancer string) {
	t.Helper()
	c, done := populated(t, balancer)
	defer done()
	t.Run("Mesh", func(t *testing.T) { testMesh(t, c) })
	t.Run("Untracked", func(t *testing.T) { testUntracked(t, c) })
	t.Run("Leaving", func(t *testing.T) { testLeaving(t, c) })
	t.Run("Repair", func(t *testing.T) { testRepair(t, c) })
	t.Run("Doctor", func(t *testing.T) { testDoctor(t, c) })
	t.Run("Pulse", func(t *testing.T) { testPulse(t, c) })
	t.Run("Mutations", func(t *testing.T) { testMutations(t, c) })
	if balancer == "nft" { // once is enough for what no balancer has a part in
		t.Run("Names", func(t *testing.T) { testNames(t, c) })
		t.Run("BadInput", func(t *testing.T) { testBadInput(t, c) })
		t.Run("Held", func(t *testing.T) { testHeld(t, c) })
		t.Run("Explain", func(t *testing.T) { testExplain(t, c) })
	}
}

// TestSurvival is what becomes of requests while agents die and objects vanish, once, with
// the nft balancer (testRepair clears the other one's table). It
// counts requests a second and milliseconds: a VM for it is one where those mean something.
func TestSurvival(t *testing.T) {
	feature.NeedSteady(t, feature.Mesh()...)
	c, done := populated(t, "nft")
	defer done()
	t.Run("Deaths", func(t *testing.T) { testDeaths(t, c) })
	t.Run("Sabotage", func(t *testing.T) { testSabotage(t, c) })
	t.Run("LongDeath", func(t *testing.T) { testLongDeath(t, c) })
}

// populated is a cluster with its networks, services and workloads; done takes it away.
func populated(t *testing.T, balancer string) (c *cluster.Cluster, done func()) {
	t.Helper()
	return populatedAs(t, cluster.Config{Balancer: balancer})
}

// populatedAs is populated with agents as config has them; the programs are always these.
func populatedAs(t *testing.T, config cluster.Config) (c *cluster.Cluster, done func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config.Sluice, config.Workload, config.Progress = program(t), []string{self, "serve"}, t.Logf
	if c, err = cluster.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	done = func() {
		if t.Failed() {
			t.Log(c.Logs())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := c.Populate(t.Context()); err != nil {
		t.Error(err) // first: done shows what the agents said of a test that failed
		done()
		t.FailNow()
	}
	return c, done
}
