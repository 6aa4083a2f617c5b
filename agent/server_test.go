package agent

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// The socket is root's and the group's, where there is one of the name and the agent may
// give things to it.
func TestSocketGroup(t *testing.T) {
	const known = "daemon"
	group, err := user.LookupGroup(known)
	if err != nil {
		t.Fatal(err)
	}
	gid, _ := strconv.Atoi(group.Gid)
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Chown(probe, -1, gid) != nil {
		gid = os.Getgid() // a user namespace without that group
	}
	for name, want := range map[string]int{known: gid, "nobody-has-this-group": os.Getgid()} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := listen(socket, name)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Stat(socket)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Sys().(*syscall.Stat_t).Gid; int(got) != want || info.Mode().Perm() != 0o660 {
				t.Errorf("group %d, mode %v, want group %d", got, info.Mode(), want)
			}
		})
	}
}

func TestThreeAgents(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	a, b, c := agents[0], agents[1], agents[2]
	web := a.create("web", "8080:80", "8080:80/udp")
	if len(web.GetPorts()) != 2 || web.GetScheduler() != "rr" {
		t.Fatalf("created %v", web)
	}
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	e := b.attach("web.1")
	if e.GetNode() != "n2" || e.GetService() != "web" || len(e.GetAttachments()) != 1 || e.GetAttachments()[0].GetInterface() != plan.IngressLink {
		t.Fatalf("attached %v", e)
	}
	address := e.GetAttachments()[0].GetAddresses()[0]
	if text := b.machine.plan().Text(); !strings.Contains(text, "sandbox "+plan.EndpointSandbox(e.GetId())) {
		t.Fatalf("attach returned before the endpoint was applied:\n%s", text)
	}
	for _, other := range []*testAgent{a, c} {
		eventually(t, other.cfg.Name+" sends to web.1", func() bool {
			return other.endpointNames() == "web.1@n2" && strings.Contains(other.machine.plan().Text(), address+":80 weight 1")
		})
	}
	_, err := a.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"})
	refused(t, err, NotHere, codes.FailedPrecondition)
	if _, err := b.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"}); err != nil {
		t.Fatal(err)
	}
	if b.machine.Pinned(plan.EndpointSandbox(e.GetId())) {
		t.Fatal("detach returned and the namespace is still held")
	}
	eventually(t, "n1 has no endpoint", func() bool { return a.endpointNames() == "" })

	nodes, err := c.clusters.ListNodes(t.Context(), &sluicev1.ListNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range nodes.GetNodes() {
		if n.GetName() != fmt.Sprintf("n%d", i+1) || n.GetState() != sluicev1.NodeState_NODE_STATE_ALIVE || n.GetSelf() != (i == 2) || n.GetSlot() == 0 {
			t.Errorf("node %d is %v", i, n)
		}
	}
	a.stop()
	eventually(t, "n3 finds n1 silent", func() bool {
		for _, p := range c.status().GetPeers() {
			if p.GetName() == "n1" {
				return p.GetState() == sluicev1.NodeState_NODE_STATE_SILENT
			}
		}
		return false
	})
}
