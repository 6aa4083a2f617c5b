package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// knowsAlive tells whether an agent sees just these others, all alive.
func (a *testAgent) knowsAlive(names ...string) bool {
	peers := a.status().GetPeers()
	if len(peers) != len(names) {
		return false
	}
	for i, p := range peers { // sorted by name
		if p.GetName() != names[i] || p.GetState() != sluicev1.NodeState_NODE_STATE_ALIVE {
			return false
		}
	}
	return true
}

// generation is that of the CA on the disk of an agent that is stopped.
func (a *testAgent) generation() uint32 {
	a.tb.Helper()
	s, content, err := openStore(a.cfg.DataDir)
	if err != nil {
		a.tb.Fatal(err)
	}
	defer s.close()
	if content.Member == nil {
		return 0
	}
	return content.Member.bundle.Authority.Generation()
}

func (a *testAgent) remove(node string) {
	a.tb.Helper()
	if _, err := a.clusters.RemoveNode(a.tb.Context(), &sluicev1.RemoveNodeRequest{Node: node}); err != nil {
		a.tb.Fatal(err)
	}
}

// A node that is removed is out, with its endpoints; the others go on with new keys. Tokens of
// before let nobody in, a new one does, and the machine may come back as another node.
func TestRemoveNode(t *testing.T) {
	agents, token := newTestCluster(t, 3)
	a, b, out := agents[0], agents[1], agents[2]
	a.create("web", "8080:80")
	eventually(t, "n3 knows web", func() bool {
		_, err := out.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	out.attach("web.3")
	eventually(t, "n1 has the endpoint", func() bool { return a.endpointNames() == "web.3@n3" })
	_, err := a.clusters.RemoveNode(t.Context(), &sluicev1.RemoveNodeRequest{Node: "n1"})
	refused(t, err, mesh.BadValue, codes.InvalidArgument)
	_, err = a.clusters.RemoveNode(t.Context(), &sluicev1.RemoveNodeRequest{Node: "n9"})
	refused(t, err, mesh.NotFound, codes.NotFound)
	a.remove("n3")
	eventually(t, "n1 and n2 see each other alone, and no endpoint", func() bool {
		return a.knowsAlive("n2") && b.knowsAlive("n1") && a.endpointNames() == "" && b.endpointNames() == ""
	})
	eventually(t, "n3 knows that it is out", func() bool { return !out.status().GetInCluster() })
	eventually(t, "the old token is of no use", func() bool {
		_, err := out.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: token})
		return strings.Contains(grpcstatus.Convert(err).Message(), "made before a node was removed")
	})
	again, err := a.tokens.CreateToken(t.Context(), &sluicev1.CreateTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = out.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: again.GetText()})
	refused(t, err, NodeRemoved, codes.FailedPrecondition)
	out.stop()
	if err := os.Remove(filepath.Join(out.cfg.DataDir, storeName)); err != nil {
		t.Fatal(err)
	}
	out.start()
	if _, err := out.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: again.GetText()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all three see each other", func() bool {
		return a.knowsAlive("n2", "n3") && b.knowsAlive("n1", "n3") && out.knowsAlive("n1", "n2")
	})
}

// Who was away while another node was removed comes back by its key; who was removed while it
// was away does not, and nothing that it says is heard.
func TestRemoveWhileAway(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	a, away, out := agents[0], agents[1], agents[2]
	away.stop()
	out.stop()
	a.remove("n3")
	if len(a.status().GetPeers()) != 1 {
		t.Errorf("n1 knows %v", a.status().GetPeers())
	}
	away.start()
	eventually(t, "n1 and n2 see each other", func() bool { return a.knowsAlive("n2") && away.knowsAlive("n1") })
	out.start()
	defer out.stop()
	a.create("new", "8080:80")
	eventually(t, "n2 hears of news", func() bool {
		_, err := away.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "new"})
		return err == nil
	})
	time.Sleep(3 * time.Second) // n3 tries
	if _, err := out.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "new"}); err == nil {
		t.Error("the removed node hears of news")
	}
	if !a.knowsAlive("n2") || !away.knowsAlive("n1") {
		t.Error("the removed node is seen")
	}
	a.stop()
	away.stop()
	if x, y := a.generation(), away.generation(); x != 2 || y != 2 {
		t.Errorf("the generations are %d and %d, want 2", x, y)
	}
	a.start()
	away.start()
	eventually(t, "n1 and n2 see each other after a restart", func() bool { return a.knowsAlive("n2") && away.knowsAlive("n1") })
}
