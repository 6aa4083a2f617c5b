package agent

import (
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

// An agent starts without the records that it cannot use, says so, keeps the endpoints that
// depend on them, and takes them up when somebody sends them.
func TestStartWithBadRecord(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	web := b.create("web", "8080:80")
	eventually(t, "n1 knows web", func() bool { return len(a.status().GetProblems()) > 0 })
	a.attach("web.1")
	eventually(t, "n2 knows web.1", func() bool { return b.endpointNames() == "web.1@n1" })
	a.stop()
	b.stop()
	key := mesh.Key{Kind: mesh.KindService, ID: web.GetId()}
	spoil(t, a.cfg.DataDir, string(key.Kind)+"/"+key.ID)
	a.start()
	told := func() bool {
		for _, p := range a.status().GetProblems() {
			if p.GetObject() == "record service "+key.ID {
				return p.GetReason() == string(mesh.BadName) && strings.Contains(p.GetDetail(), "not allowed")
			}
		}
		return false
	}
	eventually(t, "n1 says what it left out", told)
	if got := a.endpointNames(); got != "web.1@n1" {
		t.Fatalf("endpoints are %q", got)
	}
	b.start()
	eventually(t, "n1 has heard it again", func() bool { return !told() && b.endpointNames() == "web.1@n1" })
	if content := a.status(); len(content.GetProblems()) != 0 {
		t.Fatalf("problems are %v", content.GetProblems())
	}
}
