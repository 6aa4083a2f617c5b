package agent

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func (a *testAgent) explain(target, from string) *sluicev1.ExplainResponse {
	a.tb.Helper()
	resp, err := a.states.Explain(a.tb.Context(), &sluicev1.ExplainRequest{Target: target, From: from})
	if err != nil {
		a.tb.Fatalf("explain %s from %q: %v", target, from, err)
	}
	return resp
}

// holds is what an explanation must say: of one hop, or as its verdict (hop 0).
type holds struct {
	hop  uint32
	says string
}

func (h holds) in(resp *sluicev1.ExplainResponse) bool {
	if h.hop == 0 {
		return strings.Contains(resp.GetVerdict(), h.says)
	}
	for _, hop := range resp.GetHops() {
		if hop.GetNumber() == h.hop && strings.Contains(hop.GetWhat()+" "+hop.GetWhy(), h.says) {
			return true
		}
	}
	return false
}

func TestExplain(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80", "192.0.2.11:8081:80", "[2001:db8::11]:8082:80")
	a.create("quiet", "9000:90/udp")
	eventually(t, "the other node knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	own := a.attach("web.1").GetAttachments()[0].GetAddresses()
	far := b.attach("web.2").GetAttachments()[0].GetAddresses()
	eventually(t, "both endpoints are known, with their addresses", func() bool {
		return strings.Contains(a.explain("n1:8080", "").String(), "(web.2) weight 1")
	})
	for _, c := range []struct {
		target, from string
		want         []holds
	}{
		{"n1:8080", "", []holds{{0, "this node's part is so in the kernel"}, {4, "(web.2) weight 1"}, {8, "sees 203.0.113.1"}, {6, "run sluice explain on n2"}}},
		{"192.0.2.11:8080/tcp", "198.51.100.7", []holds{{8, "sees 198.51.100.7"}}},
		{"127.0.0.1:8080", "", []holds{{1, "tcp 127.0.0.1 -> 127.0.0.1:8080"}, {2, "becomes 169.254.77.1"}}},
		{"[::1]:8080", "", []holds{{8, "sees fd77::1"}}},
		{"n1:8080", "192.0.2.11", []holds{{2, "becomes 169.254.77.1"}}},
		{"n1:8080", "172.17.0.9", []holds{{2, "172.17.0.9 means nothing on other nodes"}}},
		{"n1:8080", own[0], []holds{{2, "becomes 169.254.77.1"}}},
		{"n1:8080", "2001:db8:1::1", []holds{{1, "[2001:db8::11]:8080"}, {8, "sees 2001:db8:1::1"}}},
		{"n2:8080", "", []holds{{1, "run sluice explain on n2"}, {10, "answered by 192.0.2.12:8080"}}},
		{"n1:8081", "", []holds{{1, "it goes to 169.254.77."}, {0, "arrives"}}},
		{"[2001:db8::11]:8082", "", []holds{{0, "arrives"}}},
		{"n1:9000/udp", "", []holds{{0, "broken at hop 3"}, {3, "NoReadyEndpoint"}}},
		{"n1:7777", "", []holds{{1, "not published here"}, {1, "chain fence"}}},
		{"web", "", []holds{{1, "192.0.2.11:8081"}, {1, "[2001:db8::11]:8082"}, {0, "arrives"}}},
		{"web", "198.51.100.7", []holds{{1, "192.0.2.11:8081"}, {0, "arrives"}}},
		{"quiet", "", []holds{{3, "NoReadyEndpoint"}}},
	} {
		resp := a.explain(c.target, c.from)
		for _, h := range c.want {
			if !h.in(resp) {
				t.Errorf("explain %s from %q: hop %d should say %q: %v", c.target, c.from, h.hop, h.says, resp)
			}
		}
	}
	explainDiffers(t, a)
	explainRefuses(t, a, far[0])
}

// explainDiffers has the kernel differ in something that the packet meets and
// something that it does not.
func explainDiffers(t *testing.T, a *testAgent) {
	t.Helper()
	set := plan.Set{Name: "published", Key: []plan.Field{plan.FieldProto, plan.FieldPort}}
	a.machine.setDiffer(
		kernel.Op{Verb: kernel.Replace, Sandbox: plan.HostSandbox, Object: kernel.ElementChange{
			Family: "inet", Sets: []kernel.SetChange{{Set: set, Come: []plan.Element{{Key: "tcp . 8080"}, {Key: "udp . 9000"}}}},
		}},
		kernel.Op{Verb: kernel.Delete, Sandbox: plan.IngressSandbox, Object: plan.Addr{Link: plan.Uplink, Prefix: plan.Uplink4(9)}},
	)
	defer a.machine.setDiffer()
	resp := a.explain("n1:8080", "")
	if h := (holds{0, "broken at hop 1, host of n1: the kernel differs: add host: nft element inet published: tcp . 8080"}); !h.in(resp) || resp.GetOtherDifferences() != 2 {
		t.Errorf("the missing element is not named: %s, %d others", resp.GetVerdict(), resp.GetOtherDifferences())
	}
	if resp := a.explain("web", ""); !strings.HasPrefix(resp.GetVerdict(), "tcp 203.0.113.1 -> 192.0.2.11:8080: broken") || resp.GetOtherDifferences() != 2 {
		t.Errorf("of several ports the broken one is not named: %s, %d others", resp.GetVerdict(), resp.GetOtherDifferences())
	}
}

func explainRefuses(t *testing.T, a *testAgent, far string) {
	t.Helper()
	for _, c := range []struct {
		target, from string
		reason       mesh.Reason
		code         codes.Code
	}{
		{"", "", mesh.NotFound, codes.NotFound},
		{"nothing", "", mesh.NotFound, codes.NotFound},
		{"n9:80", "", mesh.NotFound, codes.NotFound},
		{":80", "", mesh.NotFound, codes.NotFound},
		{"192.0.2.99:80", "", mesh.NotFound, codes.NotFound},
		{"n1:0", "", mesh.BadValue, codes.InvalidArgument},
		{"n1:port", "", mesh.BadValue, codes.InvalidArgument},
		{"2001:db8::11", "", mesh.NotFound, codes.NotFound},
		{"n1:80/icmp", "", mesh.BadValue, codes.InvalidArgument},
		{"n1:8080", "nobody", mesh.BadAddress, codes.InvalidArgument},
		{"n1:8080", "fe80::1%eth0", mesh.BadAddress, codes.InvalidArgument},
		{"n2:8080", "2001:db8::5", mesh.BadAddress, codes.InvalidArgument},
		{"192.0.2.11:8080", "2001:db8::5", mesh.BadAddress, codes.InvalidArgument},
		{"n1:8080", far, mesh.BadAddress, codes.InvalidArgument},
	} {
		_, err := a.states.Explain(t.Context(), &sluicev1.ExplainRequest{Target: c.target, From: c.from})
		if err == nil {
			t.Errorf("explain %q from %q should be refused", c.target, c.from)
			continue
		}
		refused(t, err, c.reason, c.code)
	}
}

func TestExplainOutsideCluster(t *testing.T) {
	a := newTestAgent(t, 1)
	_, err := a.states.Explain(t.Context(), &sluicev1.ExplainRequest{Target: "web"})
	refused(t, err, NoCluster, codes.FailedPrecondition)
}
