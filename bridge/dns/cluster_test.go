package dns

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

// cluster is a cluster's records, as its nodes write them one after another.
type cluster struct {
	t     *testing.T
	state mesh.State
	time  uint64
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	return &cluster{t: t, time: 10}
}

func (v *cluster) put(r mesh.Record) {
	v.t.Helper()
	v.time++
	r.Version, r.Claim = mesh.Version{Time: v.time, Writer: "a000000000000001"}, v.time
	if r.Node != nil {
		r.Version.Writer = r.Node.ID
	} else if r.Endpoint != nil {
		r.Version.Writer = r.Endpoint.Node
	}
	if err := r.Validate(); err != nil {
		v.t.Fatal(err)
	}
	v.state.Merge(r)
}

// node is one with a slot and blocks, the earlier numbers' claimed first.
func (v *cluster) node(number int, blocks ...mesh.Block) {
	for i := range blocks {
		blocks[i].Claim = uint64(number)
	}
	v.put(mesh.NodeRecord(&mesh.Node{
		ID: mesh.NodeID(fmt.Sprintf("a%015d", number)), Name: fmt.Sprintf("n%d", number), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(number)}),
		VXLANPort: 4789, MTU: 1500, Slot: mesh.Slot(number), SlotClaim: 1, Blocks: blocks,
	}))
}

func block(id mesh.NetworkID, v4, v6 string) mesh.Block {
	return mesh.Block{Network: id, V4: netip.MustParsePrefix(v4), V6: netip.MustParsePrefix(v6)}
}

// street is one overlay, back, of which two nodes claimed the same block and the first holds it.
func street(t *testing.T) *cluster {
	t.Helper()
	v := newCluster(t)
	v.put(mesh.NetworkRecord(mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 0x1234567890)))
	v.put(mesh.NetworkRecord(&mesh.Network{
		ID: back, Name: "back", Subnet4: netip.MustParsePrefix("10.9.0.0/20"), Subnet6: netip.MustParsePrefix("fd09::/48"), Bits4: 26, VNI: 1<<20 + 2,
		More: []mesh.Subnet{{Prefix: netip.MustParsePrefix("10.77.0.0/24"), Claim: 1}},
	}))
	v.node(1, block(back, "10.9.0.0/26", "fd09::/64"))
	v.node(2, block(back, "10.9.0.0/26", "fd09::/64"))
	return v
}

const back = mesh.NetworkID("b000000000000001")

// service is on back, and its name gives its endpoints.
func (v *cluster) service(number int, name string) *mesh.Service {
	s := &mesh.Service{ID: mesh.ServiceID(fmt.Sprintf("c%015d", number)), Name: name, Networks: []mesh.NetworkID{back}, Scheduler: mesh.RoundRobin, Mode: mesh.RoundRobinDNS}
	v.put(mesh.ServiceRecord(s))
	return s
}

// endpoint is one of a service on a node, with an address on back.
func (v *cluster) endpoint(number int, name string, s *mesh.Service, node int, v4, v6 string) *mesh.Endpoint { //nolint:revive // one line a record
	e := &mesh.Endpoint{
		ID: mesh.EndpointID(fmt.Sprintf("d%015d", number)), Name: name, Service: s.ID, Node: mesh.NodeID(fmt.Sprintf("a%015d", node)), State: mesh.Ready, Weight: 1,
		Attached: []mesh.Attachment{{Network: back, V4: ip(v4), V6: ip(v6)}},
	}
	v.put(mesh.EndpointRecord(e))
	return e
}

// asked is what node 1 answers an asker who is on back.
func (v *cluster) asked(name string, qtype uint16) string {
	z := NewZone(FromSnapshot(v.state.Snapshot(), "a000000000000001", nil))
	return say(z.Lookup(&Asker{Networks: []mesh.NetworkID{back}}, dns.Question{Name: name + ".", Qtype: qtype}, 0))
}
