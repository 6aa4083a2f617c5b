package gossip

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// A message is one version byte, then records, one a line: the body that its writer made,
// one JSON object without a line break or a tab, and where it is signed a tab and the
// signature in base64. A line that is not understood loses only itself.
const wireVersion = 1

// recordFormat is the newest format of a body that is understood here. A field that older
// nodes may overlook is added without a new one; a greater number in "v" says that they may
// not, and they refuse the record. Names of fields are lower case: the decoder takes no
// notice of case.
const recordFormat = 2

// Limits of what is taken from another node.
const (
	noticeLimit = 1 << 20 // bytes of a message: a service that publishes 4096 ports has 300 kB
	countLimit  = 200_000 // records in one message
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

// Encode is the line of one record, without the line break: what goes to peers and to the
// disk. That of a sealed record has the bytes that its writer made.
func Encode(r mesh.Record) ([]byte, error) {
	if r.Body == nil {
		sealed, err := Seal(r, mesh.Record{}, nil)
		if err != nil {
			return nil, err
		}
		r = sealed
	}
	if len(r.Sig) == 0 {
		return bytes.Clone(r.Body), nil
	}
	line := make([]byte, 0, len(r.Body)+1+signatureText().EncodedLen(len(r.Sig)))
	line = append(append(line, r.Body...), '\t')
	return signatureText().AppendEncode(line, r.Sig), nil
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
func decode(msg []byte, limit int, v Verifier) ([]mesh.Record, bad, error) {
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
		r, err := Decode(bytes.TrimSuffix(line, []byte{'\n'}), v)
		if err != nil {
			left.add(err)
			continue
		}
		records = append(records, r)
	}
	return records, left, nil
}

// Decode is the record of a line, valid, and signed by its writer where v is not nil. The
// record keeps the bytes as they are, unknown fields included, and nothing of line itself.
// It refuses a format that this version does not know (UnknownVersion).
func Decode(line []byte, v Verifier) (mesh.Record, error) {
	body, text, signed := bytes.Cut(line, []byte{'\t'})
	if len(body) > bodyLimit || len(text) > lineLimit-bodyLimit || bytes.IndexByte(body, '\n') >= 0 {
		return mesh.Record{}, mesh.Refuse(mesh.BadRecord, "update the node that wrote it", "a record of %d bytes is no line of at most %d", len(line), bodyLimit)
	}
	r, err := decodeBody(body)
	if err != nil {
		return mesh.Record{}, err
	}
	if signed {
		if r.Sig, err = decodeSignature(text); err != nil {
			return mesh.Record{}, err
		}
	}
	if v != nil {
		if err := v.Verify(r.Version.Writer, body, r.Sig); err != nil {
			return mesh.Record{}, fmt.Errorf("verify %s %s of %s: %w", r.Kind, r.ID, r.Version.Writer, err)
		}
	}
	r.Body = bytes.Clone(body)
	return r, nil
}

func decodeBody(body []byte) (mesh.Record, error) {
	var w wireRecord
	if err := json.Unmarshal(body, &w); err != nil {
		// A newer format may have other types; then that is what to say.
		var head wireHead
		if json.Unmarshal(body, &head) == nil && head.Format > recordFormat {
			return mesh.Record{}, head.refuse()
		}
		return mesh.Record{}, fmt.Errorf("decode record: %w", err)
	}
	if w.Format > recordFormat {
		return mesh.Record{}, wireHead{w.Format, w.Kind, w.ID, w.Writer}.refuse()
	}
	r := w.record()
	if err := r.Validate(); err != nil {
		return mesh.Record{}, fmt.Errorf("check record: %w", err)
	}
	return r, nil
}

// decodeSignature takes the one text that Encode gives of a signature, so that equal records
// are equal lines.
func decodeSignature(text []byte) ([]byte, error) {
	sig, err := signatureText().AppendDecode(nil, text)
	if err != nil || len(sig) == 0 || len(sig) > SignatureLimit || !bytes.Equal(signatureText().AppendEncode(nil, sig), text) {
		return nil, mesh.Refuse(mesh.BadRecord, "update the node that sent it", "a record's signature of %d characters is not one", len(text))
	}
	return sig, nil
}

// formatOf is the format that a record is written in. It is 1, absent in the text, for what nodes
// of that format read as it is meant; a network that they would take for an overlay that lets
// everybody in, or a port that they would answer on for all, they are to refuse by name.
func formatOf(r mesh.Record) int {
	beyond := false
	switch {
	case r.Network != nil:
		n := r.Network
		beyond = n.Bridged() || n.Internal || n.Apart || n.MTU != 0
	case r.Service != nil:
		beyond = slices.ContainsFunc(r.Service.Publish, func(p mesh.PublishedPort) bool { return p.Mode != mesh.Meshed || p.Sources != "" })
	case r.Endpoint != nil:
		beyond = len(r.Endpoint.Joined) > 0
	}
	if beyond {
		return 2
	}
	return 0
}

// signatureText has one text for each signature.
func signatureText() *base64.Encoding { return base64.RawStdEncoding.Strict() }

// wireHead is what a record of any format has.
type wireHead struct {
	Format int         `json:"v"`
	Kind   mesh.Kind   `json:"k"`
	ID     string      `json:"i"`
	Writer mesh.NodeID `json:"w"`
}

func (h wireHead) refuse() error {
	return mesh.Refuse(UnknownVersion, "update sluice on this node", "record %.20q %.40q of node %.40q has format %d, this node reads %d",
		string(h.Kind), h.ID, string(h.Writer), h.Format, recordFormat)
}

// The wire's own structs keep field names out of mesh. Those that are converted
// as a whole stop compiling when mesh gains a field that has no name here.
type (
	wireRecord struct {
		Format  int         `json:"v,omitempty"` // absent: 1
		Kind    mesh.Kind   `json:"k"`
		ID      string      `json:"i"`
		Time    uint64      `json:"t"`
		Writer  mesh.NodeID `json:"w"`
		Claim   uint64      `json:"c"`
		Deleted bool        `json:"d,omitempty"`
		// Of an endpoint's tombstone.
		Freed   []wireFreed    `json:"f,omitempty"`
		FreedBy mesh.ServiceID `json:"fs,omitempty"`
		// One noun, and nothing behind it; see withFields.
		Node     *wireNode     `json:"node,omitempty"`
		Network  *wireNetwork  `json:"net,omitempty"`
		Service  *wireService  `json:"svc,omitempty"`
		Endpoint *wireEndpoint `json:"ep,omitempty"`
		Token    *wireToken    `json:"tok,omitempty"`
		Removal  *wireRemoval  `json:"rm,omitempty"`
		Rotation *wireRotation `json:"rot,omitempty"`
		Keyring  *wireKeyring  `json:"key,omitempty"`
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
		Cert       []byte      `json:"x,omitempty"` // base64
		Synced     uint64      `json:"sy,omitempty"`
		Routes     []wireRoute `json:"r,omitempty"`
	}
	wireHeld struct {
		Addr      netip.Addr `json:"a,omitzero"`
		Proto     mesh.Proto `json:"x"`
		Published uint16     `json:"p"`
		By        string     `json:"by"`
	}
	wireRoute struct {
		Prefix netip.Prefix `json:"p"`
		By     string       `json:"by"`
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
		More     []wireSubnet   `json:"m,omitempty"`
		VNI      mesh.VNI       `json:"v"`
		EntryVNI mesh.VNI       `json:"ev,omitempty"`
		Pool     netip.Prefix   `json:"p,omitzero"`
		Driver   mesh.Driver    `json:"d,omitempty"`
		Internal bool           `json:"in,omitempty"`
		Apart    bool           `json:"ap,omitempty"`
		MTU      int            `json:"mtu,omitempty"`
		Gateway4 netip.Addr     `json:"g4,omitzero"`
		Gateway6 netip.Addr     `json:"g6,omitzero"`
		Routed   bool           `json:"r,omitempty"`
	}
	wireSubnet struct {
		Prefix netip.Prefix `json:"p"`
		Claim  uint64       `json:"c"`
	}
	wireService struct {
		ID        mesh.ServiceID    `json:"i"`
		Name      string            `json:"n"`
		Networks  []mesh.NetworkID  `json:"nets,omitempty"`
		Publish   []wirePublished   `json:"p,omitempty"`
		Scheduler mesh.Scheduler    `json:"s"`
		Affinity  time.Duration     `json:"a,omitempty"` // nanoseconds
		Aliases   []string          `json:"al,omitempty"`
		Stack     string            `json:"st,omitempty"`
		Mode      mesh.EndpointMode `json:"m,omitempty"`
		Virtual   []wireAttachment  `json:"va,omitempty"`
	}
	wirePublished struct {
		Addr      netip.Addr       `json:"a,omitzero"`
		Proto     mesh.Proto       `json:"x"`
		Published uint16           `json:"p"`
		Target    uint16           `json:"t"`
		Mode      mesh.PublishMode `json:"m,omitempty"`
		Last      uint16           `json:"l,omitempty"`
		Sources   mesh.Sources     `json:"s,omitempty"`
	}
	wireEndpoint struct {
		ID       mesh.EndpointID    `json:"i"`
		Name     string             `json:"n"`
		Service  mesh.ServiceID     `json:"svc"`
		Node     mesh.NodeID        `json:"node"`
		State    mesh.EndpointState `json:"s"`
		Weight   int                `json:"w"`
		Attached []wireAttachment   `json:"a,omitempty"`
		Fixed    []netip.Addr       `json:"f,omitempty"`
		Left     []wireFreed        `json:"l,omitempty"`
		Joined   []wireJoined       `json:"j,omitempty"`
	}
	wireJoined struct {
		Network   mesh.NetworkID `json:"n"`
		ByService bool           `json:"s,omitempty"`
		MAC       [6]byte        `json:"m,omitzero"`
		Interface string         `json:"if,omitempty"`
		Aliases   []string       `json:"al,omitempty"`
		Gateway   int            `json:"g,omitempty"`
		Sysctls   []wireSysctl   `json:"sy,omitempty"`
	}
	wireSysctl struct {
		Family string `json:"f"`
		Table  string `json:"t"`
		Key    string `json:"k"`
		Value  string `json:"v"`
	}
	wireToken struct {
		ID      mesh.TokenID `json:"i"`
		Role    string       `json:"r"`
		Expires int64        `json:"e"`
		Pin     string       `json:"p"`
		Hash    string       `json:"h"`
	}
	wireRemoval struct {
		Node mesh.NodeID `json:"i"`
		Name string      `json:"n"`
	}
	wireRotation struct {
		ID     string        `json:"i"`
		Maker  mesh.NodeID   `json:"m"`
		From   []byte        `json:"f"` // base64
		Data   []byte        `json:"d"` // base64
		Covers []mesh.NodeID `json:"c,omitempty"`
	}
	wireKeyring struct {
		ID     string `json:"i"`
		Nonce  string `json:"n"`
		Before string `json:"b,omitempty"`
	}
	wireAttachment struct {
		Network mesh.NetworkID `json:"n"`
		V4      netip.Addr     `json:"4"`
		V6      netip.Addr     `json:"6"`
	}
	wireFreed struct {
		Network mesh.NetworkID `json:"n"`
		V4      netip.Addr     `json:"4"`
		V6      netip.Addr     `json:"6"`
		Since   uint64         `json:"t,omitempty"`
	}
)
