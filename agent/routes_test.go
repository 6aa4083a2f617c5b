package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
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

// slowRoutes is a machine that a look at the routes costs time on.
type slowRoutes struct {
	Machine
	clock *clock
	costs time.Duration
	looks int
}

func (m *slowRoutes) Occupied() ([]doctor.Occupied, error) {
	m.looks++
	m.clock.set(m.clock.now().Add(m.costs))
	return []doctor.Occupied{{Prefix: netip.MustParsePrefix("10.20.0.0/16"), By: "route dev tun0"}}, nil
}

// A host that has very many routes is not looked at all the time, and what they come to is made out
// again only where they, or the networks, are others.
func TestManyRoutesAreLookedAtSeldom(t *testing.T) {
	at := &clock{at: time.Unix(1000, 0)}
	c, _ := member(t, scene.New(t, 1), at)
	for cost, want := range map[time.Duration]int{0: 30, time.Second: 3, time.Hour: 1} {
		m, h := &slowRoutes{clock: at, costs: cost}, hostRoutes{}
		for end := at.now().Add(time.Minute); at.now().Before(end); at.set(at.now().Add(time.Second)) {
			if err := h.look(m, c); err != nil {
				t.Fatal(err)
			}
		}
		if m.looks != want {
			t.Errorf("%d looks a minute where one costs %s, want %d", m.looks, cost, want)
		}
	}
	if got := c.snapshot().Node(c.own.ID).Routes; len(got) != 1 {
		t.Errorf("it tells %v", got)
	}
	var h hostRoutes
	few := []doctor.Occupied{{Prefix: netip.MustParsePrefix("10.20.0.0/16"), By: "route dev tun0"}}
	h.report(few, c.snapshot())
	h.reported = nil
	if h.report(few, c.snapshot()); h.reported != nil {
		t.Errorf("the same routes are made out again")
	}
	few[0].By = "route dev tun1"
	if h.report(few, c.snapshot()); len(h.reported) != 1 {
		t.Errorf("other routes come to %v", h.reported)
	}
}
