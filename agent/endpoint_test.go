package agent

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func TestRemoveServiceDetaches(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	e := b.attach("web.1")
	if _, err := a.services.RemoveService(t.Context(), &sluicev1.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "web.1 is gone everywhere", func() bool {
		return a.endpointNames() == "" && b.endpointNames() == "" && !b.machine.Pinned(plan.EndpointSandbox(e.GetId()))
	})
}

func TestRestart(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	kept, lost := a.attach("web.kept"), a.attach("web.lost")
	pid := uint32(os.Getpid())
	ended, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.ended", Namespace: &sluicev1.AttachEndpointRequest_Pid{Pid: pid}, UntilPid: pid,
	})
	if err != nil {
		t.Fatal(err)
	}
	before := a.status()
	a.stop()

	// While no agent ran, a namespace went away and a process made room for another
	// with its number.
	os.Remove(a.machine.Path(plan.EndpointSandbox(lost.GetId())))
	store, _ := mustOpen(t, a.cfg.DataDir)
	store.putLifetime(mesh.EndpointID(ended.GetEndpoint().GetId()), lifetime{PID: int(pid), Start: 1, Boot: "another"})
	store.close()
	a.cfg.Name = "renamed"
	a.machine.failOn("")
	a.start()
	eventually(t, "the kernel is as before", func() bool {
		return strings.Contains(a.machine.plan().Text(), "sandbox "+plan.EndpointSandbox(kept.GetId()))
	})
	after := a.status()
	if after.GetNode().GetId() != before.GetNode().GetId() || after.GetNode().GetSlot() != before.GetNode().GetSlot() || after.GetNode().GetName() != "renamed" {
		t.Fatalf("was %v, is %v", before.GetNode(), after.GetNode())
	}
	eventually(t, "n2 sees one endpoint and the new name", func() bool { return b.endpointNames() == "web.kept@renamed" })
	if got := a.endpointNames(); got != "web.kept@renamed" {
		t.Fatalf("n1 has %q", got)
	}
}

func TestEndpointEndsWithItsProcess(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a, pid := agents[0], uint32(os.Getpid())
	a.create("web", "8080:80")
	resp, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Namespace: &sluicev1.AttachEndpointRequest_Pid{Pid: pid}, UntilPid: pid,
	})
	if err != nil {
		t.Fatal(err)
	}
	e := resp.GetEndpoint()
	if want := "web." + e.GetId()[:shortID]; e.GetName() != want {
		t.Fatalf("the endpoint is called %s, want %s", e.GetName(), want)
	}
	if !a.machine.Pinned(plan.EndpointSandbox(e.GetId())) {
		t.Fatal("the endpoint lost its namespace")
	}
	a.processes.end(int(pid))
	eventually(t, "the endpoint is gone", func() bool {
		return a.endpointNames() == "" && !a.machine.Pinned(plan.EndpointSandbox(e.GetId()))
	})
}

// What the kernel refuses is undone when the reason is told, in the kernel too.
func TestAttachIsUndone(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	a.machine.failOn("ep-")
	_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service: "web", Name: "web.1", Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.netns("ns")},
	})
	refused(t, err, NotUsable, codes.FailedPrecondition)
	if names, held := a.endpointNames(), a.machine.pinned(); names != "" || len(held) > 0 {
		t.Errorf("left are endpoints %q and namespaces %v", names, held)
	}
	a.machine.failOn("")
	a.attach("web.1")
}

func TestNamespaceIsOneEndpoints(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.create("web", "8080:80")
	e := a.attach("web.1")
	_, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
		Service:   "web",
		Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: a.machine.Path(plan.EndpointSandbox(e.GetId()))},
	})
	refused(t, err, NamespaceTaken, codes.AlreadyExists)
}
