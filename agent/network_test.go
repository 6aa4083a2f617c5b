package agent

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func TestCreateNetwork(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	for name, c := range map[string]struct {
		req                        *sluicev1.CreateNetworkRequest
		subnets, gateways, besides string
	}{
		"plain":     {&sluicev1.CreateNetworkRequest{Subnet: "10.50.0.0/20"}, "10.50.0.0/20", "", "overlay"},
		"overlay":   {&sluicev1.CreateNetworkRequest{Subnets: []string{"10.51.0.0/20", "fd51::/48"}, Mtu: 1300, Internal: true, NoIcc: true}, "10.51.0.0/20 fd51::/48", "", "overlay internal no-icc 1300"},
		"bridge":    {&sluicev1.CreateNetworkRequest{Driver: "bridge", Subnets: []string{"fd52::/64", "10.52.0.0/24"}}, "10.52.0.0/24 fd52::/64", "10.52.0.1 fd52::1", "bridge"},
		"routed":    {&sluicev1.CreateNetworkRequest{Driver: "bridge", Subnets: []string{"10.53.0.0/24", "fd53::/64"}, Gateways: []string{"fd53::9", "10.53.0.254"}, DirectRouting: true, Mtu: 9000}, "10.53.0.0/24 fd53::/64", "10.53.0.254 fd53::9", "bridge routed 9000"},
		"large MTU": {&sluicev1.CreateNetworkRequest{Subnet: "10.54.0.0/20", Mtu: 9000}, "10.54.0.0/20", "", "overlay"},
	} {
		t.Run(name, func(t *testing.T) {
			c.req.Name = strings.ReplaceAll(name, " ", "-")
			resp, err := a.networks.CreateNetwork(t.Context(), c.req)
			if err != nil {
				t.Fatal(err)
			}
			n := resp.GetNetwork()
			if got := strings.Join(n.GetSubnets(), " "); !strings.HasPrefix(got, c.subnets) || len(n.GetSubnets()) != 2 {
				t.Errorf("its subnets are %s", got)
			}
			if got := strings.Join(n.GetGateways(), " "); got != c.gateways {
				t.Errorf("its gateways are %s", got)
			}
			if got := traits(n); got != c.besides || (n.GetVni() == 0) != (n.GetDriver() == "bridge") {
				t.Errorf("it is %s, VNI %d", got, n.GetVni())
			}
		})
	}
}

// traits are what else a network has, as text; an MTU only where it is not the usual one.
func traits(n *sluicev1.Network) string {
	text := n.GetDriver()
	for _, trait := range []struct {
		name string
		has  bool
	}{{"internal", n.GetInternal()}, {"no-icc", n.GetNoIcc()}, {"routed", n.GetDirectRouting()}, {"1300", n.GetMtu() == 1300}, {"9000", n.GetMtu() == 9000}} {
		if trait.has {
			text += " " + trait.name
		}
	}
	return text
}

func TestCreateNetworkRefused(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.bridge("yard", "172.30.0.0/24")
	for name, c := range map[string]struct {
		req    *sluicev1.CreateNetworkRequest
		reason mesh.Reason
		code   codes.Code
	}{
		"unknown driver":       {&sluicev1.CreateNetworkRequest{Driver: "macvlan"}, mesh.BadValue, codes.InvalidArgument},
		"two of IPv4":          {&sluicev1.CreateNetworkRequest{Subnets: []string{"10.1.0.0/20", "10.2.0.0/20"}}, mesh.BadValue, codes.InvalidArgument},
		"old field and new":    {&sluicev1.CreateNetworkRequest{Subnet: "10.1.0.0/20", Subnets: []string{"10.2.0.0/20"}}, mesh.BadValue, codes.InvalidArgument},
		"no prefix":            {&sluicev1.CreateNetworkRequest{Subnets: []string{"x"}}, mesh.BadAddress, codes.InvalidArgument},
		"host bits":            {&sluicev1.CreateNetworkRequest{Driver: "bridge", Subnets: []string{"10.1.0.1/24"}}, mesh.BadAddress, codes.InvalidArgument},
		"no gateway":           {&sluicev1.CreateNetworkRequest{Driver: "bridge", Gateways: []string{"x"}}, mesh.BadAddress, codes.InvalidArgument},
		"gateway elsewhere":    {&sluicev1.CreateNetworkRequest{Driver: "bridge", Subnets: []string{"10.1.0.0/24"}, Gateways: []string{"10.2.0.1"}}, mesh.BadAddress, codes.InvalidArgument},
		"gateway of overlay":   {&sluicev1.CreateNetworkRequest{Subnets: []string{"10.1.0.0/20"}, Gateways: []string{"10.1.0.1"}}, mesh.BadValue, codes.InvalidArgument},
		"routed overlay":       {&sluicev1.CreateNetworkRequest{DirectRouting: true}, mesh.BadValue, codes.InvalidArgument},
		"small MTU":            {&sluicev1.CreateNetworkRequest{Mtu: 1279}, mesh.BadValue, codes.InvalidArgument},
		"large MTU":            {&sluicev1.CreateNetworkRequest{Mtu: 65536}, mesh.BadValue, codes.InvalidArgument},
		"absurd MTU":           {&sluicev1.CreateNetworkRequest{Mtu: 1<<32 - 1}, mesh.BadValue, codes.InvalidArgument},
		"another's subnet":     {&sluicev1.CreateNetworkRequest{Driver: "bridge", Subnets: []string{"172.30.0.128/25"}}, mesh.SubnetTaken, codes.AlreadyExists},
		"another's as overlay": {&sluicev1.CreateNetworkRequest{Subnets: []string{"172.30.0.0/20"}}, mesh.SubnetTaken, codes.AlreadyExists},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.status().GetRevision()
			c.req.Name = "back"
			_, err := a.networks.CreateNetwork(t.Context(), c.req)
			refused(t, err, c.reason, c.code)
			if after := a.status().GetRevision(); after != before {
				t.Errorf("the refused call changed the state: revision %d became %d", before, after)
			}
		})
	}
	_, err := a.networks.UpdateNetwork(t.Context(), &sluicev1.UpdateNetworkRequest{Network: "yard", AddSubnets: []string{"172.31.0.0/24"}})
	refused(t, err, mesh.Unsupported, codes.Unimplemented)
	_, err = a.networks.GetNetwork(t.Context(), &sluicev1.GetNetworkRequest{Network: "none"})
	refused(t, err, mesh.NotFound, codes.NotFound)
}
