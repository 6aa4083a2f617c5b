package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// conflict is the problem that a route makes, as a node's status tells it; "" where it tells none.
func (a *testAgent) conflict() string {
	for _, p := range a.status().GetProblems() {
		if p.GetReason() == string(SubnetConflict) {
			return p.GetObject() + ": " + p.GetDetail()
		}
	}
	return ""
}

// A route that comes up at one node is an alarm at all of them, until it goes; meanwhile no
// network is made there.
func TestRouteIntoNetwork(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "blue", Subnet: "10.9.0.0/20"}); err != nil {
		t.Fatal(err)
	}
	b.machine.lead(doctor.Occupied{Prefix: netip.MustParsePrefix("10.9.3.0/24"), By: "route via 192.0.2.9 dev tun0"},
		doctor.Occupied{Prefix: netip.MustParsePrefix("10.20.0.0/16"), By: "route dev tun0"})
	for _, at := range agents {
		within(t, "the alarm", func() bool {
			text := at.conflict()
			return strings.HasPrefix(text, "network blue at node n2: ") && strings.Contains(text, `node "n2" has a route to 10.9.3.0/24 (route via 192.0.2.9 dev tun0), which is in subnet 10.9.0.0/20 of network "blue"`)
		})
	}
	_, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "green", Subnet: "10.20.0.0/16"})
	refused(t, err, mesh.SubnetTaken, codes.AlreadyExists)
	_, err = a.networks.UpdateNetwork(t.Context(), &sluicev1.UpdateNetworkRequest{Network: "blue", AddSubnets: []string{"10.20.0.0/16"}})
	refused(t, err, mesh.SubnetTaken, codes.AlreadyExists)
	b.machine.lead()
	within(t, "the end of the alarm", func() bool { return a.conflict() == "" && b.conflict() == "" })
	all, err := a.watch(0)
	told := map[string]bool{}
	for _, e := range all {
		if strings.HasPrefix(e.GetText(), string(SubnetConflict)) {
			told[e.GetKind()] = true
		}
	}
	if err != nil || !told[string(ProblemBegan)] || !told[string(ProblemEnded)] {
		t.Errorf("events tell %v, %v", told, err)
	}
}

// within waits for longer than a round that nobody wakes takes.
func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(2*rareLook + 5*time.Second); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
	}
}
