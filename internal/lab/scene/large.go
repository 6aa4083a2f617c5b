package scene

import (
	"fmt"
	"net/netip"

	"github.com/sluice-mesh/sluice/mesh"
)

// largeNodes is how many nodes a large cluster has.
const largeNodes = 100

// FirstPort is what the first service of a large cluster is published on; the next has the next.
const FirstPort = 10000

// Large is a settled cluster of 100 nodes with two endpoints a service, spread over all nodes.
func Large(tb TB, services int) *mesh.Snapshot {
	tb.Helper()
	return large(tb, services, func(k int) int { return k%largeNodes + 1 }).State.Snapshot()
}

// Crowd is Large but for node n1, which has the two endpoints of the first service and no
// others: what it holds besides is what every node does.
func Crowd(tb TB, services int) *World {
	tb.Helper()
	return large(tb, services, func(k int) int {
		if k < endpointsEach {
			return 1
		}
		return k%(largeNodes-1) + 2
	})
}

// endpointsEach is how many endpoints a service of a large cluster has.
const endpointsEach = 2

// EndpointID is the ID of a large cluster's endpoint k, counted from 0.
func EndpointID(k int) mesh.EndpointID { return id[mesh.EndpointID]('e', k) }

// large gives addresses straight from blocks of /20, which settling one by one would
// take long for.
func large(tb TB, services int, nodeOf func(k int) int) *World {
	tb.Helper()
	w := New(tb, largeNodes)
	net := *w.State.Snapshot().Network(mesh.IngressNetwork)
	net.Subnet4, net.Bits4 = netip.MustParsePrefix("11.0.0.0/8"), 20
	w.Write(NodeID(1), mesh.NetworkRecord(&net))
	settled := w.State.Snapshot()
	blocks := make([]mesh.Block, largeNodes)
	for i := range largeNodes {
		n := *settled.Node(NodeID(i + 1))
		six := net.Subnet6.Addr().As16()
		six[7] = byte(i)
		n.Blocks = []mesh.Block{{
			Network: net.ID, V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i), 0, 0}), 20),
			V6: netip.PrefixFrom(netip.AddrFrom16(six), 64), Claim: 1,
		}}
		blocks[i] = n.Blocks[0]
		w.Write(n.ID, mesh.NodeRecord(&n))
	}
	used := make([]int, largeNodes) // addresses of each block
	for i := range services {
		s := w.Service(fmt.Sprintf("s%d", i), nil, Port(uint16(FirstPort+i), 80, mesh.TCP))
		for j := range endpointsEach {
			k := endpointsEach*i + j
			node := nodeOf(k)
			used[node-1]++
			w.Write(NodeID(node), mesh.EndpointRecord(&mesh.Endpoint{
				ID: EndpointID(k), Name: fmt.Sprintf("s%d.%d", i, j), Service: s,
				Node: NodeID(node), State: mesh.Ready, Weight: 1,
				Attached: []mesh.Attachment{attachment(net.ID, blocks[node-1], used[node-1])},
			}))
		}
	}
	return w
}

// attachment is the address number k of a block, counted from 1: that of the gateway is 0.
func attachment(net mesh.NetworkID, block mesh.Block, k int) mesh.Attachment {
	four, six := block.V4.Addr().As4(), block.V6.Addr().As16()
	if k >= 1<<12 {
		panic("a block of /20 has no such address")
	}
	four[2], four[3] = byte(k>>8), byte(k)
	six[14], six[15] = four[2], four[3]+1 // the gateway's is ::1
	return mesh.Attachment{Network: net, V4: netip.AddrFrom4(four), V6: netip.AddrFrom16(six)}
}
