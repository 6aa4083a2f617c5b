package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// mutations are all that is taken away, in the order in which a packet meets it.
func mutations(t *testing.T, c *cluster.Cluster) []mutation {
	t.Helper()
	n, err := look(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(entry(c, n), crossing(c, n), back(c, n), isolation(c, n))
}

func both(n *cluster.Node) []string {
	return append(client(n, cluster.IPv4), client(n, cluster.IPv6)...)
}

// entry is the host and the load balancer of n1.
func entry(c *cluster.Cluster, n numbers) []mutation {
	n1 := c.Node("n1")
	four := client(n1, cluster.IPv4)
	return []mutation{
		{
			"capture rule", n1.Space, nft("flush chain inet %s capture"), both(n1),
		},
		{
			"captured port", n1.Space, nft("delete element inet %s published { tcp . 8080 }"),
			[]string{four[0], client(n1, cluster.IPv6)[0]},
		},
		{
			"masquerade of the node's own calls", n1.Space, nft("flush chain inet %s postrouting"),
			[]string{"n1 -> n1 127.0.0.1 tcp", "n1 -> n1 ::1 tcp"},
		},
		{
			"mark map entry", n1.Ingress, nft("delete element inet %s services4 { 169.254.77.2 . tcp . 8080 }"), four[:1],
		},
		{
			"backend", n1.Ingress, n.backend, four,
		},
	}
}

// crossing is the way from n1 to the endpoint on n2, and from n2 to its own.
func crossing(c *cluster.Cluster, n numbers) []mutation {
	n1, n2 := c.Node("n1"), c.Node("n2")
	blue := c.Endpoint("web.2").Node.Network["blue"]
	return []mutation{
		{"FDB entry on the way in", n1.Ingress, fdb(plan.NetworkMAC(n.slot2)), both(n1)},
		{"door", n2.Ingress, []command{{"ip", "link", "delete", plan.DoorOut}}, both(n2)},
		{
			"FDB entry of a user network", blue, fdb(plan.NetworkMAC(n.slot3)),
			[]string{"web.2 -> web.3 on blue, port 80, ipv4 tcp", "web.2 -> web.3 on blue, port 80, ipv6 udp"},
		},
	}
}

// back is the way of a reply from n2 to n1.
func back(c *cluster.Cluster, n numbers) []mutation {
	n1, network := c.Node("n1"), c.Node("n2").Network["ingress"]
	mac, mark := plan.EntryMAC(n.slot1), plan.HexMark(plan.ReplyMark|uint32(n.slot1))
	own := plan.HexMark(plan.ReplyMark | uint32(n.slot2))
	return []mutation{
		{"zone map entry", network, nft("delete element inet %s node_zones { " + mac.String() + " }"), both(n1)},
		{"reply mark of a zone", network, nft("delete element inet %s zone_marks { " + strconv.Itoa(int(n.slot1)) + " }"), both(n1)},
		{"egress map entry", network, nft("delete element netdev %s node_macs { " + mark + " }"), both(n1)},
		{"egress map entry of the own node", network, nft("delete element netdev %s own_macs { " + own + " }"), both(c.Node("n2"))},
		{"FDB entry on the way back", network, fdb(mac), both(n1)},
		{"blocks a peer may send from", n1.Ingress, nft("flush set inet %s blocks4"), client(n1, cluster.IPv4)},
	}
}

// isolation is what an endpoint on n2 is open to: too little of it, and too much.
func isolation(c *cluster.Cluster, n numbers) []mutation {
	network := c.Node("n2").Network["ingress"]
	target := func(op, proto string, port int) []command {
		return nft(fmt.Sprintf("%s element inet %%s targets4 { %s . %s . %d }", op, n.web2, proto, port))
	}
	var tcp []string
	for _, node := range c.Nodes {
		tcp = append(tcp, client(node, cluster.IPv4)[0])
	}
	hidden := "ingress-sbox of n1 -> web.2 on ingress, port not published, "
	return []mutation{
		{"isolation set entry", network, target("delete", "tcp", 80), tcp},
		{"isolation set's bound", network, target("add", "udp", 81), []string{hidden + "ipv4 udp"}},
		{
			"isolation's drop", network, nft("insert rule inet %s isolate accept"),
			[]string{hidden + "ipv4 udp", hidden + "ipv6 udp"},
		},
	}
}

// nft is a command to the nft program; %s is our table.
func nft(format string) []command {
	return []command{{"nft", fmt.Sprintf(format, plan.TableName)}}
}

// fdb takes every destination of a MAC address away from the tunnel device.
func fdb(mac plan.MAC) []command {
	return []command{{"bridge", "fdb", "del", mac.String(), "dev", plan.Tunnel}}
}
