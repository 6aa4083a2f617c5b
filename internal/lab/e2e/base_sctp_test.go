package e2e

import (
	"net/netip"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// TestBaseSCTP is the matrix over SCTP, with ports that are published over TCP and UDP as well.
func TestBaseSCTP(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.SCTP, feature.BridgeNetfilter)...)
	b := startBase(t, 1)
	b.protos = append(protocols(), "sctp")
	b.bridgeNetfilter(t, "0")
	b.populate(t)
	t.Run("Frame", func(t *testing.T) { testFrameSCTP(t, b) })
	t.Run("Matrix", func(t *testing.T) { testMatrix(t, b, matrix.SCTP()) })
	t.Run("Restart", func(t *testing.T) { b.restart(t, spread(matrix.SCTP())) })
	b.bridgeNetfilter(t, "1")
	t.Run("BridgeNetfilter", func(t *testing.T) { testMatrix(t, b, spread(matrix.SCTP())) })
	b.bridgeNetfilter(t, "0")
	t.Run("Respect", func(t *testing.T) { testRespectSCTP(t, b) })
}

// testRespectSCTP is TestRespect over SCTP, with one kind of rules.
func testRespectSCTP(t *testing.T, b *base) {
	t.Helper()
	if err := b.node.SwitchFirewall(t.Context(), "respect"); err != nil {
		t.Fatal(err)
	}
	b.rest(t)
	t.Run("Matrix", func(t *testing.T) { testMatrix(t, b, spread(matrix.SCTP())) })
	r := b.publishJudged(t)
	t.Run("None", func(t *testing.T) { b.reaches(t, r, "sees") })
	said(t, b.node.Space, "nft", "table inet theirs { chain in { type filter hook input priority 0; policy accept; iifname eth0 ct state new th dport { 8700, 8702, 8715 } reject; }; }")
	t.Run("Denied", func(t *testing.T) { b.reaches(t, r, "does not arrive") })
}

// testFrameSCTP has a published port take what is made by hand as it takes what a host sends:
// else no row of such frames would say anything.
func testFrameSCTP(t *testing.T, b *base) {
	t.Helper()
	for _, f := range bothFamilies() {
		q := question{
			begin: func() (*probe.Attempt, error) {
				to := netip.AddrPortFrom(b.node.Addr(f), publishedBy(0, probe.TargetPort))
				return probe.Unanswered(), b.frame(probe.Packet{Proto: "sctp", Dest: to})
			},
			mark: func() error {
				return b.mark(matrix.Cell{Row: matrix.Row{Asker: matrix.Neighbour}, Network: matrix.NAT, Family: matrix.Family(f)})
			},
			proto: "sctp", family: f, who: b.of("nat-target"), port: probe.TargetPort, oneWay: true,
		}
		if got, want := q.try(), "comes from "+b.Client.Addr(f).String(); got != want {
			t.Errorf("%s: %s, want: %s", f, got, want)
		}
	}
}

// serveSCTP answers at an endpoint over SCTP as well.
func (b *base) serveSCTP(t *testing.T, r *resident, ports ...uint16) {
	t.Helper()
	s, err := probe.ServeSCTP(r, r.name, ports...)
	if err != nil {
		t.Fatal(err)
	}
	b.servers = append(b.servers, s.Close)
}
