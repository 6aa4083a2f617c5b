package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// resetMachine is a kernel that has one thing to put back.
type resetMachine struct{ resets int }

func (m *resetMachine) Reset(context.Context) (kernel.ResetReport, error) {
	m.resets++
	return kernel.ResetReport{Restored: []kernel.Setting{{Key: "net/ipv4/ip_forward", Before: "0", Ours: "1"}}}, nil
}

func (m *resetMachine) Close() error { return nil }

func (a *testAgent) reset(m *resetMachine) (*ResetReport, error) {
	a.tb.Helper()
	return reset(a.tb.Context(), ResetConfig{DataDir: a.cfg.DataDir, RunDir: a.cfg.RunDir, Log: a.cfg.Log},
		func(string) (resettable, error) { return m, nil })
}

func (a *testAgent) nodes() int {
	a.tb.Helper()
	resp, err := a.clusters.ListNodes(a.tb.Context(), &sluicev1.ListNodesRequest{})
	if err != nil {
		a.tb.Fatal(err)
	}
	return len(resp.GetNodes())
}

func (a *testAgent) files(dir string) string {
	a.tb.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		a.tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// The others forget a node that was reset, and it may come again as a new one.
func TestReset(t *testing.T) {
	agents, token := newTestCluster(t, 3)
	a, b, c := agents[0], agents[1], agents[2]
	a.create("web", "8080:80")
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	b.attach("web.1")
	eventually(t, "all know web.1", func() bool { return a.endpointNames() == "web.1@n2" && c.endpointNames() == "web.1@n2" })
	id := b.status().GetNode().GetId()
	if _, err := b.reset(&resetMachine{}); mesh.ReasonOf(err) != RunDirInUse {
		t.Fatalf("reset beside the agent: %v", err)
	}
	b.stop()
	os.Remove(filepath.Join(b.cfg.RunDir, "ns-web.1")) // the workload's own
	m := &resetMachine{}
	report, err := b.reset(m)
	if err != nil || m.resets != 1 || len(report.Restored) != 1 || len(report.Left) > 0 {
		t.Fatalf("got %+v, %v after %d resets", report, err, m.resets)
	}
	if left := b.files(b.cfg.RunDir) + b.files(b.cfg.DataDir); left != "" {
		t.Errorf("left over: %s", left)
	}
	eventually(t, "n2 is forgotten", func() bool {
		return a.nodes() == 2 && c.nodes() == 2 && a.endpointNames() == "" && c.endpointNames() == ""
	})
	b.start()
	if s := b.status(); s.GetInCluster() || s.GetNode().GetId() == id {
		t.Errorf("after a reset the node is %v, in a cluster: %v", s.GetNode(), s.GetInCluster())
	}
	if _, err := b.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: token}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n2 is there again", func() bool { return a.nodes() == 3 && b.nodes() == 3 && b.endpointNames() == "" })
}

// Where nobody can be told, the node stays the one that the others know.
func TestResetAlone(t *testing.T) {
	agents, token := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	b.create("web", "8080:80")
	b.attach("web.1")
	eventually(t, "n1 knows web.1", func() bool { return a.endpointNames() == "web.1@n2" })
	id := b.status().GetNode().GetId()
	a.stop()
	b.stop()
	report, err := b.reset(&resetMachine{})
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, l := range report.Left {
		left = append(left, l.Object)
	}
	want := "cluster " + filepath.Join(b.cfg.DataDir, storeName) + " " + filepath.Join(b.cfg.RunDir, "ns-web.1")
	if got := strings.Join(left, " "); got != want {
		t.Errorf("left %s, want %s", got, want)
	}
	a.start()
	b.start()
	if s := b.status(); s.GetInCluster() || s.GetNode().GetId() != id {
		t.Errorf("after a reset the node is %v, in a cluster: %v", s.GetNode(), s.GetInCluster())
	}
	if _, err := b.clusters.Join(t.Context(), &sluicev1.JoinRequest{Address: nodeAddr(1), Token: token}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are one cluster", func() bool {
		return a.nodes() == 2 && b.nodes() == 2 && a.endpointNames() == "" && b.endpointNames() == ""
	})
}

// A host without an agent's directories, or with ones that cannot be read, has
// its kernel put back all the same.
func TestResetWithoutStore(t *testing.T) {
	a := newTestAgent(t, 1)
	// Somebody else holds the data directory, by another run directory.
	m := &resetMachine{}
	open := func(string) (resettable, error) { return m, nil }
	other := ResetConfig{DataDir: a.cfg.DataDir, RunDir: t.TempDir(), Log: a.cfg.Log}
	if _, err := reset(t.Context(), other, open); mesh.ReasonOf(err) != DataDirInUse || m.resets > 0 {
		t.Errorf("got %v, %d resets", err, m.resets)
	}
	a.stop()
	store := filepath.Join(a.cfg.DataDir, storeName)
	if err := os.WriteFile(store, []byte("not a store"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := a.reset(m)
	if err != nil || m.resets != 1 || len(report.Left) != 1 || report.Left[0].Object != a.cfg.DataDir {
		t.Errorf("damaged store: %+v, %v", report, err)
	}
	for _, dir := range []string{a.cfg.DataDir, a.cfg.RunDir} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	report, err = a.reset(m)
	if err != nil || m.resets != 2 || len(report.Left)+len(report.Files) > 0 {
		t.Errorf("no directories: %+v, %v", report, err)
	}
	for _, dir := range []string{a.cfg.DataDir, a.cfg.RunDir} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a reset made %s: %v", dir, err)
		}
	}
}
