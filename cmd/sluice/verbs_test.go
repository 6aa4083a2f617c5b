package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func at(minute int) *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC))
}

func nodeOne() *sluicev1.Node {
	return &sluicev1.Node{
		Id: "00000000000000a1", Name: "one", Address: "192.0.2.1", VxlanPort: 4789, Mtu: 1500, Slot: 17,
		State: sluicev1.NodeState_NODE_STATE_ALIVE, Self: true, Endpoints: 2, Since: at(1),
	}
}

func nodeTwo() *sluicev1.Node {
	return &sluicev1.Node{
		Id: "00000000000000a2", Name: "two", Address: "2001:db8::2", VxlanPort: 4789, Mtu: 1500, Slot: 4242,
		State: sluicev1.NodeState_NODE_STATE_GONE, Since: at(2),
	}
}

func nodeThree() *sluicev1.Node {
	return &sluicev1.Node{
		Id: "00000000000000a3", Name: "three", Address: "192.0.2.3", VxlanPort: 4789, Mtu: 1500, Slot: 7,
		State: sluicev1.NodeState_NODE_STATE_AGENT_DOWN, Endpoints: 1, Since: at(4),
	}
}

func networkBack() *sluicev1.Network {
	return &sluicev1.Network{
		Id: "00000000000000b1", Name: "back", Subnets: []string{"10.192.16.0/20", "fd00:1:2:3::/64"},
		Vni: 1048577, Mtu: 1450, Services: []string{"api", "web"}, Driver: "overlay",
	}
}

func networkYard() *sluicev1.Network {
	return &sluicev1.Network{
		Id: "00000000000000b2", Name: "yard", Subnets: []string{"172.30.0.0/24", "fd00:9::/64"}, Gateways: []string{"172.30.0.254", "fd00:9::1"},
		Driver: "bridge", Internal: true, NoIcc: true, DirectRouting: true,
	}
}

// endpointJoined is on a bridge besides its service's networks.
func endpointJoined() *sluicev1.Endpoint {
	e := endpointWeb()
	e.Attachments = append(e.Attachments, &sluicev1.Attachment{
		Network: "yard", Addresses: []string{"172.30.0.7", "fd00:9::7"}, Interface: "net0", Driver: "bridge", Connected: true, DefaultRoute: true,
		Mac: "02:00:00:00:00:07", GatewayPriority: 5, Aliases: []string{"db"}, Sysctls: []string{"net.ipv4.conf.IFNAME.log_martians=1"},
	})
	return e
}

func endpointWeb() *sluicev1.Endpoint {
	return &sluicev1.Endpoint{
		Id: "00000000000000d1", Name: "web.1", Service: "web", Node: "one", State: "ready", Weight: 1,
		Attachments: []*sluicev1.Attachment{
			{Network: "ingress", Addresses: []string{"198.18.0.2", "fd00::2"}, Interface: "eth0"},
			{Network: "back", Addresses: []string{"10.192.16.2"}, Interface: "eth1", Driver: "overlay"},
		},
	}
}

func serviceWeb() *sluicev1.Service {
	return &sluicev1.Service{
		Id: "00000000000000c1", Name: "web", Networks: []string{"back"}, Scheduler: "rr", EndpointMode: "vip", Affinity: durationpb.New(3 * time.Hour),
		Ports: []*sluicev1.PublishedPort{
			{Protocol: "tcp", Published: 8080, Target: 80, Mode: "ingress"},
			{Address: "2001:db8::9", Protocol: "udp", Published: 53, Target: 5353, Mode: "ingress"},
		},
		Endpoints: []*sluicev1.Endpoint{endpointWeb()},
		Conflicts: []string{"port tcp/8081 is published by service \"older\""},
	}
}

func TestInit(t *testing.T) {
	checkForms(t, map[string]any{"Init": &sluicev1.InitResponse{
		Node: nodeOne(), Token: "sluice-1-secret", JoinAddress: "192.0.2.1:7956",
	}}, "init", "--pool", "10.0.0.0/9", "--ingress-subnet", "198.19.0.0/16")
}

func TestJoin(t *testing.T) {
	checkForms(t, map[string]any{"Join": &sluicev1.JoinResponse{Node: nodeTwo(), Nodes: 2}},
		"join", "192.0.2.1:7956", "--token", "sluice-1-secret")
}

func TestLeave(t *testing.T) {
	checkForms(t, map[string]any{"Leave": &sluicev1.LeaveResponse{}}, "leave")
	f := startAgent(t, map[string]any{"Leave": &sluicev1.LeaveResponse{Untold: "no node answers"}})
	if got := f.sluice(t, "leave"); got.status != 0 || !strings.Contains(got.stderr, "no node answers") {
		t.Errorf("with nobody told: exit status %d, %q", got.status, got.stderr)
	}
}

func TestTokenCreate(t *testing.T) {
	node := &sluicev1.Token{Id: "0123456789abcdef", Role: "node", Expires: at(30)}
	checkForms(t, map[string]any{"CreateToken": &sluicev1.CreateTokenResponse{Token: node, Text: "sluice-2-secret", JoinAddress: "192.0.2.1:7956"}},
		"token", "create", "--ttl", "30m")
	viewer := &sluicev1.Token{Id: "0123456789abcdef", Role: "viewer", Expires: at(30)}
	f := startAgent(t, map[string]any{"CreateToken": &sluicev1.CreateTokenResponse{Token: viewer, Text: "sluice-2-secret"}})
	if got := f.sluice(t, "token", "create", "--role", "viewer"); strings.Contains(got.stdout, "join") || !strings.Contains(got.stdout, "sluice-2-secret") {
		t.Errorf("for a viewer: %q", got.stdout)
	}
	for api, want := range map[string]string{"": "sluice login ADDR[:PORT] --token sluice-2-secret\n\nADDR is that of a node", "192.0.2.1:7957": "sluice login 192.0.2.1:7957 --token sluice-2-secret\n"} {
		f := startAgent(t, map[string]any{"CreateToken": &sluicev1.CreateTokenResponse{Token: viewer, Text: "sluice-2-secret", ApiAddress: api}})
		if got := f.sluice(t, "token", "create", "--role", "viewer"); !strings.Contains(got.stdout, want) {
			t.Errorf("where the API is at %q: %q", api, got.stdout)
		}
	}
}

func TestTokenList(t *testing.T) {
	checkForms(t, map[string]any{"ListTokens": &sluicev1.ListTokensResponse{Tokens: []*sluicev1.Token{
		{Id: "0123456789abcdef", Role: "node", Expires: at(30)},
		{Id: "fedcba9876543210", Role: "viewer", Expires: at(40), Outdated: true},
	}}}, "token", "ls")
}

func TestTokenRemove(t *testing.T) {
	checkForms(t, map[string]any{"RemoveToken": &sluicev1.RemoveTokenResponse{}}, "token", "rm", "0123456789abcdef")
}

func TestKeyRotate(t *testing.T) {
	checkForms(t, map[string]any{"RotateKeys": &sluicev1.RotateKeysResponse{Id: "0123456789abcdef"}}, "key", "rotate")
}

func TestKeyList(t *testing.T) {
	checkForms(t, map[string]any{"ListKeys": &sluicev1.ListKeysResponse{Generation: 2, Made: at(30), Keys: []*sluicev1.GossipKey{
		{Id: "0123456789abcdef", Sends: true}, {Id: "fedcba9876543210", Newest: true}, {Id: "00000000000000ff"},
	}}}, "key", "ls")
}

func TestNodeList(t *testing.T) {
	checkForms(t, map[string]any{"ListNodes": &sluicev1.ListNodesResponse{
		Nodes: []*sluicev1.Node{nodeOne(), nodeThree(), nodeTwo()},
	}}, "node", "ls")
}

func TestNodeRemove(t *testing.T) {
	checkForms(t, map[string]any{"RemoveNode": &sluicev1.RemoveNodeResponse{Name: "n3"}}, "node", "rm", "n3")
}

func TestNetworkCreate(t *testing.T) {
	checkForms(t, map[string]any{"CreateNetwork": &sluicev1.CreateNetworkResponse{Network: networkBack()}},
		"network", "create", "back", "--subnet", "10.192.16.0/20", "--driver", "overlay")
	t.Run("bridge", func(t *testing.T) {
		checkForms(t, map[string]any{"CreateNetwork": &sluicev1.CreateNetworkResponse{Network: networkYard()}},
			"network", "create", "yard", "--driver", "bridge", "--subnet", "172.30.0.0/24", "--subnet", "fd00:9::/64",
			"--gateway", "172.30.0.254", "--internal", "--no-icc", "--mtu", "1400", "--direct-routing", "allow")
	})
}

func TestNetworkInspect(t *testing.T) {
	checkForms(t, map[string]any{"GetNetwork": &sluicev1.GetNetworkResponse{Network: networkYard(), Endpoints: []*sluicev1.Endpoint{endpointJoined()}}},
		"network", "inspect", "yard")
}

func TestNetworkUpdate(t *testing.T) {
	grown := networkBack()
	grown.Subnets = append(grown.Subnets, "10.1.0.0/20")
	checkForms(t, map[string]any{"UpdateNetwork": &sluicev1.UpdateNetworkResponse{Network: grown}},
		"network", "update", "back", "--subnet", "10.1.0.0/20", "--subnet", "fd01::/48")
}

func TestNetworkList(t *testing.T) {
	checkForms(t, map[string]any{"ListNetworks": &sluicev1.ListNetworksResponse{Networks: []*sluicev1.Network{
		networkBack(), networkYard(),
		{
			Id: "0000000000000001", Name: "ingress", Subnets: []string{"198.18.0.0/16"}, Vni: 1048576, Mtu: 1450,
			Ingress: true, Driver: "overlay", Conflicts: []string{"subnet 198.18.0.0/16 is network \"old\"'s"},
		},
	}}}, "network", "ls")
}

func TestNetworkRemove(t *testing.T) {
	checkForms(t, map[string]any{"RemoveNetwork": &sluicev1.RemoveNetworkResponse{}}, "network", "rm", "back")
}

func TestServiceCreate(t *testing.T) {
	checkForms(t, map[string]any{"CreateService": &sluicev1.CreateServiceResponse{Service: serviceWeb()}},
		"service", "create", "web", "--network", "back", "--network", "front", "--publish", "8080:80,mode=ingress",
		"--publish", "[2001:db8::9]:53:5353/udp", "--scheduler", "rr", "--affinity", "client-ip", "--force")
	t.Run("host", func(t *testing.T) {
		checkForms(t, map[string]any{"CreateService": &sluicev1.CreateServiceResponse{Service: serviceHosted()}},
			"service", "create", "dns", "--publish", "53:53/udp,mode=host", "--publish", "8000-8009:8000-8009,mode=host,source=192.0.2.0/24,source=2001:db8::/32",
			"--alias", "names", "--alias", "ns", "--stack", "base", "--endpoint-mode", "dnsrr")
	})
}

func serviceHosted() *sluicev1.Service {
	return &sluicev1.Service{
		Id: "00000000000000c2", Name: "dns", Scheduler: "rr", Aliases: []string{"names", "ns"}, Stack: "base", EndpointMode: "vip",
		Networks: []string{"back"}, VirtualAddresses: []*sluicev1.VirtualAddress{{Network: "back", Addresses: []string{"10.192.30.9", "fd00:1:2:3::9"}}},
		Ports: []*sluicev1.PublishedPort{
			{Protocol: "udp", Published: 53, Target: 53, Mode: "host"},
			{Address: "2001:db8::9", Protocol: "tcp", Published: 8000, Target: 8000, Last: 8009, Mode: "host", Sources: []string{"192.0.2.0/24", "2001:db8::/32"}},
			{Protocol: "tcp", Published: 8080, Target: 80, Mode: "ingress", Sources: []string{"192.0.2.1/32"}},
		},
	}
}

// What a table says of a port is what --publish takes.
func TestPortSpecs(t *testing.T) {
	for _, want := range []string{
		"8080:80/tcp", "192.0.2.1:53:5353/udp", "[2001:db8::9]:53:5353/udp", "8080:80/tcp,mode=host", "8080:80/sctp,source=192.0.2.0/24,source=2001:db8::/32",
		"8000-8009:8000-8009/tcp,mode=host", "[::1]:8000-8009:8000-8009/udp,mode=host,source=192.0.2.0/24",
	} {
		ports, err := mesh.ParsePublish(want)
		if err != nil || len(ports) != 1 {
			t.Errorf("%s: %v, %v", want, ports, err)
			continue
		}
		p := ports[0]
		port := &sluicev1.PublishedPort{Protocol: string(p.Proto), Published: uint32(p.Published), Target: uint32(p.Target), Last: uint32(p.Last), Mode: string(p.Mode)}
		if p.Addr.IsValid() {
			port.Address = p.Addr.String()
		}
		for _, source := range p.Sources.Prefixes() {
			port.Sources = append(port.Sources, source.String())
		}
		if got := portSpec(port); got != want || p.String() != want {
			t.Errorf("%s is shown as %s, and package mesh says %s", want, got, p)
		}
	}
}

func TestServiceUpdate(t *testing.T) {
	answers := map[string]any{"UpdateService": &sluicev1.UpdateServiceResponse{Service: serviceWeb()}}
	t.Run("some", func(t *testing.T) {
		checkForms(t, answers, "service", "update", "web", "--publish-add", "81:80", "--publish-rm", "8080:80/tcp", "--scheduler", "mh", "--affinity", "none", "--force")
	})
	t.Run("all", func(t *testing.T) {
		checkForms(t, answers, "service", "update", "web", "--publish", "81:80", "--publish", "82:80", "--network=")
	})
	t.Run("names", func(t *testing.T) {
		checkForms(t, answers, "service", "update", "web", "--alias", "www", "--stack=", "--endpoint-mode", "dnsrr")
	})
}

func TestServiceList(t *testing.T) {
	checkForms(t, map[string]any{"ListServices": &sluicev1.ListServicesResponse{Services: []*sluicev1.Service{
		{Id: "00000000000000c0", Name: "quiet", Scheduler: "mh"}, serviceWeb(),
	}}}, "service", "ls")
}

// Nodes that do not answer are named on stderr, a line each, and nothing has failed.
func TestServiceHeld(t *testing.T) {
	service := serviceWeb()
	service.Held = []*sluicev1.HeldPort{
		{Node: "n2", Protocol: "tcp", Published: 8080, Holder: "nginx (pid 812)"},
		{Node: "n3", Address: "2001:db8::9", Protocol: "udp", Published: 53, Holder: "Docker's rule in table ip6 nat chain DOCKER"},
	}
	answers := map[string]any{
		"CreateService": &sluicev1.CreateServiceResponse{Service: service},
		"UpdateService": &sluicev1.UpdateServiceResponse{Service: service},
		"GetService":    &sluicev1.GetServiceResponse{Service: service},
	}
	f := startAgent(t, answers)
	for _, args := range [][]string{
		{"service", "create", "web", "--publish", "8080:80"},
		{"service", "update", "web", "--publish-add", "8080:80", "-o", "json"},
	} {
		got := f.sluice(t, args...)
		want := "sluice: n2 does not answer on 8080/tcp: held by nginx (pid 812)\n" +
			"sluice: n3 does not answer on [2001:db8::9]:53/udp: held by Docker's rule in table ip6 nat chain DOCKER\n"
		if got.status != 0 || got.stderr != want || !strings.Contains(got.stdout, "web") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	checkForms(t, answers, "service", "inspect", "web")
}

func TestServiceInspect(t *testing.T) {
	checkForms(t, map[string]any{"GetService": &sluicev1.GetServiceResponse{Service: serviceWeb()}},
		"service", "inspect", "web")
	t.Run("host", func(t *testing.T) {
		checkForms(t, map[string]any{"GetService": &sluicev1.GetServiceResponse{Service: serviceHosted()}}, "service", "inspect", "dns")
	})
}

func TestServiceRemove(t *testing.T) {
	checkForms(t, map[string]any{"RemoveService": &sluicev1.RemoveServiceResponse{}}, "service", "rm", "web")
}

func TestEndpointAttach(t *testing.T) {
	answers := map[string]any{"AttachEndpoint": &sluicev1.AttachEndpointResponse{Endpoint: endpointWeb()}}
	t.Run("netns", func(t *testing.T) {
		checkForms(t, answers, "endpoint", "attach", "--service", "web", "--netns", "/run/netns/blue", "--name", "web.1", "--weight", "3")
	})
	t.Run("pid", func(t *testing.T) {
		checkForms(t, answers, "endpoint", "attach", "--service", "web", "--pid", "1234")
	})
	t.Run("networks", func(t *testing.T) {
		checkForms(t, answers, "endpoint", "attach", "--service", "web", "--pid", "1234", "--network", "back",
			"--network", "yard,ip=172.30.0.7,ip=fd00:9::7,mac=02:00:00:00:00:07,interface=net0,gw-priority=-5,alias=db,alias=sql,sysctl=net.ipv4.conf.IFNAME.log_martians=1")
	})
	f := startAgent(t, map[string]any{"AttachEndpoint": &sluicev1.AttachEndpointResponse{
		Endpoint: endpointWeb(), Held: []*sluicev1.HeldPort{{Node: "one", Protocol: "udp", Published: 53, Holder: "endpoint dns.1"}},
	}})
	want := "sluice: one does not answer on 53/udp: held by endpoint dns.1\n"
	if got := f.sluice(t, "endpoint", "attach", "--service", "web", "--pid", "1"); got.status != 0 || got.stderr != want {
		t.Errorf("where a port is held: exit status %d, %q", got.status, got.stderr)
	}
}

func TestEndpointConnect(t *testing.T) {
	checkForms(t, map[string]any{"ConnectEndpoint": &sluicev1.ConnectEndpointResponse{Endpoint: endpointJoined()}},
		"endpoint", "connect", "web.1", "yard", "--ip", "172.30.0.7", "--mac", "02:00:00:00:00:07", "--interface", "net0", "--gw-priority", "5",
		"--alias", "db", "--sysctl", "net.ipv4.conf.IFNAME.log_martians=1")
}

func TestEndpointDisconnect(t *testing.T) {
	checkForms(t, map[string]any{"DisconnectEndpoint": &sluicev1.DisconnectEndpointResponse{Endpoint: endpointWeb()}}, "endpoint", "disconnect", "web.1", "yard")
}

func TestEndpointInspect(t *testing.T) {
	checkForms(t, map[string]any{"GetEndpoint": &sluicev1.GetEndpointResponse{Endpoint: endpointJoined()}}, "endpoint", "inspect", "web.1")
}

func TestEndpointDrain(t *testing.T) {
	drained := endpointWeb()
	drained.State = "draining"
	checkForms(t, map[string]any{"DrainEndpoint": &sluicev1.DrainEndpointResponse{Endpoint: drained}}, "endpoint", "drain", "web.1")
}

func TestEndpointDetach(t *testing.T) {
	checkForms(t, map[string]any{"DetachEndpoint": &sluicev1.DetachEndpointResponse{}}, "endpoint", "detach", "web.1")
}

func TestEndpointList(t *testing.T) {
	checkForms(t, map[string]any{"ListEndpoints": &sluicev1.ListEndpointsResponse{
		Endpoints: []*sluicev1.Endpoint{endpointWeb(), {Id: "00000000000000d2", Name: "web.2", Service: "web", Node: "two", State: "draining"}},
	}}, "endpoint", "ls", "--service", "web")
}

func TestStatus(t *testing.T) {
	t.Run("cluster", func(t *testing.T) {
		checkForms(t, map[string]any{"GetStatus": &sluicev1.GetStatusResponse{
			Node: nodeOne(), InCluster: true, Peers: []*sluicev1.Node{nodeTwo()},
			Revision: 12, AppliedRevision: 11, Applied: at(3), Objects: 321,
			Agreement: &sluicev1.Agreement{Differ: []string{"n2"}, Silent: []string{"n3", "n4"}},
			Problems: []*sluicev1.Problem{
				{Object: "service web", Reason: "NoReadyEndpoint", Detail: "no endpoint of service \"web\" is ready", Since: at(4)},
				{Object: "ingress-sbox: link x", Reason: "KernelRefused", Detail: "escape \x1b[2J and\nnew line"},
			},
			Sandboxes: []*sluicev1.Sandbox{{Name: "ingress-sbox", Path: "/run/sluice/netns/ingress-sbox"}},
			Balancer:  "ipvs", BalancerReason: "auto: this kernel has IP_VS", Version: "v0.1.0", Repairs: 7,
			Names: &sluicev1.NameCounts{Questions: 41, Cached: 5, Forwarded: 4, Stale: 3, Failed: 2, Refused: 1},
		}}, "status")
	})
	t.Run("held", func(t *testing.T) {
		one, two := nodeOne(), nodeTwo()
		one.Held = []*sluicev1.HeldPort{{Node: "one", Protocol: "tcp", Published: 8080, Holder: "nginx (pid 812)"}}
		two.Held = []*sluicev1.HeldPort{{Node: "two", Address: "192.0.2.1", Protocol: "udp", Published: 53, Holder: "an unknown process"}}
		checkForms(t, map[string]any{"GetStatus": &sluicev1.GetStatusResponse{
			Node: one, InCluster: true, Peers: []*sluicev1.Node{two}, Revision: 12, AppliedRevision: 12, Applied: at(3), Balancer: "ipvs", Version: "v0.1.0",
			Problems: []*sluicev1.Problem{{Object: "service web port tcp/8080", Reason: "PortHeld", Detail: "held by nginx (pid 812) on this node: stop it or publish another port", Since: at(4)}},
		}}, "status")
	})
	t.Run("alone", func(t *testing.T) {
		checkForms(t, map[string]any{"GetStatus": &sluicev1.GetStatusResponse{Node: nodeOne(), Balancer: "ipvs", Version: "v0.1.0"}},
			"status")
	})
	t.Run("converged", func(t *testing.T) {
		checkForms(t, map[string]any{"GetStatus": &sluicev1.GetStatusResponse{
			Node: nodeOne(), InCluster: true, Revision: 12, AppliedRevision: 12, Applied: at(3), Balancer: "ipvs", Version: "v0.1.0",
			Agreement: &sluicev1.Agreement{Since: at(2)},
		}}, "status")
	})
}

func TestPlan(t *testing.T) {
	answer := &sluicev1.GetPlanResponse{Text: "sandbox host\n  table ip sluice\n\trule one\t# tab\n"}
	checkForms(t, map[string]any{"GetPlan": answer}, "plan")
}

func TestPlanDiff(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer *sluicev1.GetPlanResponse
		status int
	}{
		{"equal", &sluicev1.GetPlanResponse{}, 0},
		{"different", &sluicev1.GetPlanResponse{Text: "+ host: route 198.18.0.0/16\n", Differences: 1}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startAgent(t, map[string]any{"GetPlan": c.answer})
			got := f.sluice(t, "plan", "--diff")
			if want := (result{status: c.status, stdout: c.answer.GetText()}); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if asked := strings.Join(f.questions(), ""); !strings.Contains(asked, `"diff": true`) {
				t.Errorf("asked %s", asked)
			}
		})
	}
}

func TestExplainVerb(t *testing.T) {
	const packet = "tcp 203.0.113.1 -> 192.0.2.1:8080"
	ok, unchecked := sluicev1.HopState_HOP_STATE_OK, sluicev1.HopState_HOP_STATE_UNCHECKED
	hops := []*sluicev1.Hop{
		{
			Packet: packet, Number: 1, Node: "one", Sandbox: "host", What: packet + " is captured", State: ok,
			Plan: []string{"host: set published: tcp . 8080"}, Command: "nft list set inet sluice published",
		},
		{
			Packet: packet, Number: 7, Node: "two", Sandbox: "sluice-1048576", Backend: "198.18.6.84:80", What: "let in",
			State: unchecked, Why: "not checked here", Command: "nsenter --net=/x nft list set inet sluice targets4",
		},
		{Packet: "udp 203.0.113.1 -> 192.0.2.1:53", Number: 1, Node: "one", Sandbox: "host", What: "captured", State: ok, Command: "nft"},
	}
	checkForms(t, map[string]any{"Explain": &sluicev1.ExplainResponse{Hops: hops, Verdict: "it arrives", OtherDifferences: 2}},
		"explain", "--from", "203.0.113.1", "web")
	t.Run("broken", func(t *testing.T) {
		hop := &sluicev1.Hop{Packet: packet, Number: 3, Node: "one", Sandbox: "ingress-sbox", State: sluicev1.HopState_HOP_STATE_BROKEN, Why: "no mark"}
		f := startAgent(t, map[string]any{"Explain": &sluicev1.ExplainResponse{Hops: []*sluicev1.Hop{hop}, Verdict: "broken at hop 3"}})
		got := f.sluice(t, "explain", "one:8080")
		if got.status != 3 || got.stderr != "" || !strings.Contains(got.stdout, "broken: no mark") {
			t.Errorf("got %+v", got)
		}
	})
}

func TestVersion(t *testing.T) {
	got := sluice(t, newApp(), "version")
	if got.status != 0 || !strings.HasPrefix(got.stdout, "sluice ") {
		t.Errorf("got %+v", got)
	}
	got = sluice(t, newApp(), "version", "-o", "json")
	if got.status != 0 || !strings.Contains(got.stdout, `"version": "`) {
		t.Errorf("got %+v", got)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		got := sluice(t, newApp(), "completion", shell)
		if got.status != 0 || !strings.Contains(got.stdout, "sluice") || got.stderr != "" {
			t.Errorf("%s: exit status %d, %d bytes, stderr %q", shell, got.status, len(got.stdout), got.stderr)
		}
	}
}

// TestHelp shows the manual of every command, so that a change of a name or a
// flag is seen.
func TestHelp(t *testing.T) {
	var text strings.Builder
	for _, path := range append([]string{""}, everyVerb()...) {
		args := append(strings.Fields(path), "--help")
		got := sluice(t, newApp(), args...)
		if got.status != 0 || got.stderr != "" {
			t.Errorf("%v: exit status %d, stderr %q", args, got.status, got.stderr)
		}
		text.WriteString("$ sluice " + strings.Join(args, " ") + "\n" + got.stdout + "\n")
	}
	golden.Equal(t, text.String())
}
