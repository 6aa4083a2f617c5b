package gossip

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A message is one version byte, then records, one JSON object a line.
// A line that is not understood loses only itself.
const wireVersion = 1

// Limits of what is taken from another node.
const (
	stateLimit  = 16 << 20 // bytes of one state exchange: memberlist refuses 20 MiB, its own part included
	noticeLimit = 1 << 20  // bytes of any other message: a service that publishes 4096 ports has 300 kB
	countLimit  = 200_000  // records in one message
)

// bad counts the records of a message that were left out.
type bad struct {
	count int
	first error
}

func (b *bad) add(err error) {
	if b.count++; b.first == nil {
		b.first = err
	}
}

// encode is the line of one record. Equal records give equal bytes.
func encode(r mesh.Record) ([]byte, error) {
	line, err := json.Marshal(toWire(r))
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", r.Kind, r.ID, err)
	}
	return line, nil
}

// message joins lines.
func message(lines ...[]byte) []byte {
	size := 1
	for _, line := range lines {
		size += len(line) + 1
	}
	msg := append(make([]byte, 0, size), wireVersion)
	for _, line := range lines {
		msg = append(append(msg, line...), '\n')
	}
	return msg
}

// decode returns the valid records of a message of at most limit bytes and
// counts the others. It fails where the message as a whole is not understood.
func decode(msg []byte, limit int) ([]mesh.Record, bad, error) {
	var left bad
	if len(msg) == 0 || len(msg) > limit {
		return nil, left, mesh.Refuse(mesh.BadRecord, "update the node that sent it", "a gossip message has %d bytes, the limit is %d", len(msg), limit)
	}
	if v := msg[0]; v != wireVersion {
		return nil, left, mesh.Refuse(UnknownVersion, "run the same version of sluice on all nodes", "a gossip message has version %d, this node speaks %d", v, wireVersion)
	}
	var records []mesh.Record
	for line := range bytes.Lines(msg[1:]) {
		if len(records)+left.count == countLimit {
			left.add(mesh.Refuse(mesh.BadRecord, "update the node that sent it", "a gossip message has more than %d records", countLimit))
			break
		}
		r, err := decodeLine(line)
		if err != nil {
			left.add(err)
			continue
		}
		records = append(records, r)
	}
	return records, left, nil
}

// decodeLine ignores fields that it does not know: a newer node may have more.
func decodeLine(line []byte) (mesh.Record, error) {
	var w wireRecord
	if err := json.Unmarshal(line, &w); err != nil {
		return mesh.Record{}, fmt.Errorf("decode record: %w", err)
	}
	r := w.record()
	if err := r.Validate(); err != nil {
		return mesh.Record{}, fmt.Errorf("check record: %w", err)
	}
	return r, nil
}

// The wire's own structs keep field names out of mesh. Those that are converted
// as a whole stop compiling when mesh gains a field that has no name here.
type (
	wireRecord struct {
		Kind     mesh.Kind     `json:"k"`
		ID       string        `json:"i"`
		Time     uint64        `json:"t"`
		Writer   mesh.NodeID   `json:"w"`
		Claim    uint64        `json:"c"`
		Deleted  bool          `json:"d,omitempty"`
		Node     *wireNode     `json:"node,omitempty"`
		Network  *wireNetwork  `json:"net,omitempty"`
		Service  *wireService  `json:"svc,omitempty"`
		Endpoint *wireEndpoint `json:"ep,omitempty"`
	}
	wireNode struct {
		ID         mesh.NodeID `json:"i"`
		Name       string      `json:"n"`
		Addr       netip.Addr  `json:"a"`
		GossipPort uint16      `json:"gp,omitempty"`
		VXLANPort  uint16      `json:"vp"`
		MTU        int         `json:"m"`
		Slot       mesh.Slot   `json:"s,omitempty"`
		SlotClaim  uint64      `json:"sc,omitempty"`
		Blocks     []wireBlock `json:"b,omitempty"`
		Held       []wireHeld  `json:"h,omitempty"`
	}
	wireHeld struct {
		Addr      netip.Addr `json:"a,omitzero"`
		Proto     mesh.Proto `json:"x"`
		Published uint16     `json:"p"`
		By        string     `json:"by"`
	}
	wireBlock struct {
		Network mesh.NetworkID `json:"n"`
		V4      netip.Prefix   `json:"4"`
		V6      netip.Prefix   `json:"6"`
		Claim   uint64         `json:"c"`
	}
	wireNetwork struct {
		ID       mesh.NetworkID `json:"i"`
		Name     string         `json:"n"`
		Subnet4  netip.Prefix   `json:"4"`
		Subnet6  netip.Prefix   `json:"6"`
		Bits4    int            `json:"b"`
		VNI      mesh.VNI       `json:"v"`
		EntryVNI mesh.VNI       `json:"ev,omitempty"`
		Pool     netip.Prefix   `json:"p,omitzero"`
	}
	wireService struct {
		ID        mesh.ServiceID   `json:"i"`
		Name      string           `json:"n"`
		Networks  []mesh.NetworkID `json:"nets,omitempty"`
		Publish   []wirePublished  `json:"p,omitempty"`
		Scheduler mesh.Scheduler   `json:"s"`
		Affinity  time.Duration    `json:"a,omitempty"` // nanoseconds
	}
	wirePublished struct {
		Addr      netip.Addr `json:"a,omitzero"`
		Proto     mesh.Proto `json:"x"`
		Published uint16     `json:"p"`
		Target    uint16     `json:"t"`
	}
	wireEndpoint struct {
		ID       mesh.EndpointID    `json:"i"`
		Name     string             `json:"n"`
		Service  mesh.ServiceID     `json:"svc"`
		Node     mesh.NodeID        `json:"node"`
		State    mesh.EndpointState `json:"s"`
		Weight   int                `json:"w"`
		Attached []wireAttachment   `json:"a,omitempty"`
	}
	wireAttachment struct {
		Network mesh.NetworkID `json:"n"`
		V4      netip.Addr     `json:"4"`
		V6      netip.Addr     `json:"6"`
	}
)
