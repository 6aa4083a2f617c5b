package agent

import (
	"slices"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/mesh"
)

// Who holds what another claims is told by name, and by ID where the name is what they
// fight for.
func TestConflictsNameTheWinner(t *testing.T) {
	w := scene.New(t, 2)
	older := w.Service("web", nil, scene.Port(8080, 80, mesh.TCP))
	w.Service("shop", nil, scene.Port(8080, 80, mesh.TCP))
	w.Service("web", nil)
	first := w.Endpoint(older, "web.1", 1)
	w.Endpoint(older, "web.1", 2)
	snap := w.State.Snapshot()
	for _, s := range snap.Services {
		var want []string
		switch {
		case s.Name == "shop":
			want = []string{`port tcp/8080 is held by the older claim of service "web" (` + string(older) + `)`}
		case s.ID != older:
			want = []string{`name "web" is held by the older claim of service "web" (` + string(older) + `)`}
		}
		if got := toService(s, snap).GetConflicts(); !slices.Equal(got, want) {
			t.Errorf("service %s: conflicts %q, want %q", s.ID, got, want)
		}
	}
	for _, e := range snap.Endpoints {
		var want []string
		if e.ID != first.ID {
			want = []string{`name "web.1" is held by the older claim of endpoint "web.1" (` + string(first.ID) + `)`}
		}
		if got := toEndpoint(e, snap).GetConflicts(); !slices.Equal(got, want) {
			t.Errorf("endpoint %s: conflicts %q, want %q", e.ID, got, want)
		}
	}
}
