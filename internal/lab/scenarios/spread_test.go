package scenarios

import (
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/mesh"
)

// Not -update: that is for what is the same on every run.
var documentSpread = flag.Bool("document", false, "write the measured spread into docs/EQUIVALENCE.md")

const (
	floodFlows   = 10000
	floodFewer   = 1500 // where the VM runs it and no document is written
	floodStreams = 1000 // TCP connections
	floodPort    = 8080
)

// flooded is how many flows: the VM takes four minutes for all of them.
func flooded(balancer mesh.Balancer) int {
	if balancer == mesh.BalancerIPVS && !*documentSpread {
		return floodFewer
	}
	return floodFlows
}

// expectation is what a scheduler gives to endpoints of weights 1, 2 and 3.
type expectation struct {
	share [3]float64
	limit func(n int, share float64) float64 // in connections
	says  string
}

func byWeight() [3]float64 { return [3]float64{1.0 / 6, 2.0 / 6, 3.0 / 6} }

func equally() [3]float64 { return [3]float64{1.0 / 3, 1.0 / 3, 1.0 / 3} }

// sigmas are five: with four, one run of seven hundred fails by chance.
func sigmas(n int, share float64) float64 { return 5 * math.Sqrt(float64(n)*share*(1-share)) }

// turns is for what is given in turn: less than a whole turn of the weights.
func turns(int, float64) float64 { return 6 }

// table is for a client's address that chooses from so many lots: each endpoint got its lots by
// chance, and each client its lot.
func table(lots int) func(n int, share float64) float64 {
	return func(n int, share float64) float64 {
		return sigmas(lots, share)*float64(n)/float64(lots) + sigmas(n, share)
	}
}

func expected(b mesh.Balancer, s mesh.Scheduler) expectation {
	const shLots, mhLots, nftLots = 256, 4093, 2048
	consistent := s == mesh.SourceHash || s == mesh.Maglev
	switch {
	case b == mesh.BalancerNFT && consistent:
		return expectation{byWeight(), table(nftLots), "by weight, 5 sigma of 2048 lots and of the clients"}
	case b == mesh.BalancerNFT && (s == mesh.RoundRobin || s == mesh.LeastConn):
		return expectation{equally(), sigmas, "equal parts, 5 sigma"}
	case b == mesh.BalancerNFT:
		return expectation{byWeight(), sigmas, "by weight, 5 sigma"}
	case s == mesh.RoundRobin || s == mesh.LeastConn:
		return expectation{equally(), turns, "equal parts, one turn"}
	case s == mesh.SourceHash:
		return expectation{byWeight(), table(shLots), "by weight, 5 sigma of 256 lots and of the clients"}
	case s == mesh.Maglev:
		return expectation{byWeight(), table(mhLots), "by weight, 5 sigma of 4093 lots and of the clients"}
	default:
		return expectation{byWeight(), turns, "by weight, one turn"}
	}
}

// TestSpread counts who gets how many of ten thousand new flows on this kernel, by nft.
func TestSpread(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	testSpread(t, mesh.BalancerNFT)
}

// TestSpreadIPVS does so by IPVS, with fewer flows unless its figures are to be kept.
func TestSpreadIPVS(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	testSpread(t, mesh.BalancerIPVS)
}

func testSpread(t *testing.T, balancer mesh.Balancer) {
	t.Helper()
	f := onRealKernel(t, balancer)
	w := newWorld(t)
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	publish := func(port int) flags {
		ports, err := publications(fmt.Sprintf("%d:80", port))
		try(err)
		return flags{publish: ports}
	}
	try(w.service("web", publish(floodPort)))
	for i, name := range []string{"a", "b", "c"} {
		try(w.endpoint("web", name, nodes()[i], i+1))
	}
	var rows strings.Builder
	for i, scheduler := range mesh.Schedulers() {
		// Each on a port of its own: a virtual server that stays counts earlier flows.
		next := publish(floodPort + i)
		next.scheduler = scheduler
		try(w.editService("web", next.onto))
		try(f.Settle(t.Context(), w))
		port := next.publish[0].Published
		want := expected(balancer, scheduler)
		udp, err := f.Flood(flooded(balancer), "n1", port)
		try(err)
		judge(t, string(scheduler)+" udp", flooded(balancer), udp, want)
		if balancer == mesh.BalancerNFT { // the VM has not the time
			tcp, _, err := f.Spread(floodStreams, ask{from: manyName, to: "n1", port: port, how: How{Proto: mesh.TCP}})
			try(err)
			judge(t, string(scheduler)+" tcp", floodStreams, tcp, want)
		}
		fmt.Fprintf(&rows, "| %s | %s | %d | %d | %d | %s |\n", balancer, scheduler, udp["a"], udp["b"], udp["c"], want.says)
	}
	t.Logf("\n%s", rows.String())
	if *documentSpread && !t.Failed() {
		writeSpread(t, balancer, rows.String())
	}
}

func judge(t *testing.T, what string, n int, got map[string]int, want expectation) {
	t.Helper()
	sum := 0
	for i, name := range []string{"a", "b", "c"} {
		sum += got[name]
		if off := math.Abs(float64(got[name]) - want.share[i]*float64(n)); off > want.limit(n, want.share[i]) {
			t.Errorf("%s: %s has %d of %d, want %.0f at most %.0f off", what, name, got[name], n, want.share[i]*float64(n), want.limit(n, want.share[i]))
		}
	}
	if sum != n {
		t.Errorf("%s: %v are not %d answers", what, got, n)
	}
}

// writeSpread replaces one balancer's rows of the document.
func writeSpread(t *testing.T, balancer mesh.Balancer, rows string) {
	t.Helper()
	text, err := os.ReadFile(document())
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), spreadBegin)
	old, _, _ := strings.Cut(rest, spreadEnd)
	table := "| balancer | scheduler | weight 1 | weight 2 | weight 3 | expected, and how far off at most |\n|---|---|---|---|---|---|\n"
	for line := range strings.Lines(old) {
		if strings.HasPrefix(line, "| ipvs |") && balancer != mesh.BalancerIPVS {
			table += line
		}
	}
	table += rows
	for line := range strings.Lines(old) {
		if strings.HasPrefix(line, "| nft |") && balancer != mesh.BalancerNFT {
			table += line
		}
	}
	if err := os.WriteFile(document(), []byte(replaced(t, spreadBegin, table, spreadEnd)), 0o644); err != nil {
		t.Fatal(err)
	}
}
