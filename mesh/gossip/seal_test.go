package gossip

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-mesh/sluice/mesh"
)

// seals stands for keys of all nodes: who has one can sign for its node only.
type seals struct{ writer mesh.NodeID }

func (s seals) Sign(body []byte) []byte {
	mac := hmac.New(sha256.New, []byte(s.writer))
	mac.Write(body)
	return mac.Sum(nil)
}

var errForged = errors.New("forged")

type verifier struct{}

// Admit lets everybody in.
func (verifier) Admit(mesh.Record) error { return nil }

func (verifier) Verify(writer mesh.NodeID, body, sig []byte) error {
	if !hmac.Equal(sig, seals{writer}.Sign(body)) {
		return errForged
	}
	return nil
}

func sealed(tb testing.TB, r, was mesh.Record, s Signer) mesh.Record {
	tb.Helper()
	if r.Version.Time == 0 {
		r.Version, r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
	}
	r, err := Seal(r, was, s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func lineOf(tb testing.TB, r mesh.Record) []byte {
	tb.Helper()
	line, err := Encode(r)
	if err != nil {
		tb.Fatal(err)
	}
	return line
}

func TestSignatures(t *testing.T) {
	good := sealed(t, service(1), mesh.Record{}, seals{nodeID(1)})
	if r, err := Decode(lineOf(t, good), verifier{}); err != nil || r.Sum() != good.Sum() {
		t.Fatalf("a signed record: %v", err)
	}
	with := func(edit func(*mesh.Record)) mesh.Record { r := good; edit(&r); return r }
	for name, r := range map[string]mesh.Record{
		"none":                 with(func(r *mesh.Record) { r.Sig = nil }),
		"of another node":      with(func(r *mesh.Record) { r.Sig = seals{nodeID(2)}.Sign(r.Body) }),
		"of another record":    with(func(r *mesh.Record) { r.Sig = sealed(t, service(2), mesh.Record{}, seals{nodeID(1)}).Sig }),
		"of other bytes":       with(func(r *mesh.Record) { r.Body = bytes.Replace(r.Body, []byte(`{`), []byte(`{ `), 1) }),
		"for another's writer": with(func(r *mesh.Record) { r.Body = bytes.ReplaceAll(r.Body, []byte(nodeID(1)), []byte(nodeID(2))) }),
	} {
		if _, err := Decode(lineOf(t, r), verifier{}); !errors.Is(err, errForged) {
			t.Errorf("signature %s: %v", name, err)
		}
	}
	line := lineOf(t, good)
	for name, bad := range map[string][]byte{
		"empty":         append(bytes.Clone(good.Body), '\t'),
		"padded":        append(bytes.Clone(line), '='),
		"not base64":    append(bytes.Clone(good.Body), "\t!!!!"...),
		"broken":        append(bytes.Clone(good.Body), "\tc2ln\rbmF0"...),
		"twice":         append(bytes.Clone(line), line[bytes.IndexByte(line, '\t'):]...),
		"too long":      append(bytes.Clone(good.Body), "\t"+strings.Repeat("AAAA", SignatureLimit/3+1)...),
		"far too long":  append(bytes.Clone(good.Body), "\t"+strings.Repeat("AAAA", lineLimit)...),
		"trailing bits": append(bytes.Clone(good.Body), "\tYR"...),
	} {
		if _, err := Decode(bad, nil); mesh.ReasonOf(err) != mesh.BadRecord {
			t.Errorf("signature %s: %v", name, err)
		}
	}
}

// Signatures are looked at where messages come in; a forged record loses only itself.
func TestForgedRecordsStayOut(t *testing.T) {
	book := newLogbook(slog.New(slog.DiscardHandler))
	state := &memory{alive: map[mesh.NodeID]bool{}}
	d := newDelegate(Config{State: state, Verifier: verifier{}}, newQueue(func() int { return 1 }), book)
	good := sealed(t, service(1), mesh.Record{}, seals{nodeID(1)})
	forged := sealed(t, service(2), mesh.Record{}, seals{nodeID(2)})
	d.merge(message(lineOf(t, forged), lineOf(t, good)))
	if got := state.state.Records(); len(got) != 1 || got[0].Sum() != good.Sum() {
		t.Errorf("got %v", got)
	}
	if n := d.take(message(lineOf(t, forged))); n != 0 {
		t.Error("an exchange brought it in")
	}
}

// What a newer node wrote passes through an older one as it is.
func TestUnknownFieldsPass(t *testing.T) {
	body := `{"k":"service", "later":[1,{"x":"\u00e9"}],"i":"c000000000000001","t":5,"w":"` + string(nodeID(1)) +
		`","c":1,"svc":{"i":"c000000000000001","n":"web","timeout":5,"s":"rr","aaa":{"n":1}},"end":null}`
	line := []byte(body + "\tc2ln")
	r, err := Decode(line, nil)
	if err != nil {
		t.Fatal(err)
	}
	var state mesh.State
	state.Merge(r)
	if got := lineOf(t, state.Records()[0]); !bytes.Equal(got, line) {
		t.Fatalf("%s became %s", line, got)
	}
	// A change by this node keeps what it does not know of the noun, and signs all of it.
	next := *r.Service
	next.Name = "shop"
	changed := mesh.ServiceRecord(&next)
	changed.Version, changed.Claim = mesh.Version{Time: 6, Writer: nodeID(2)}, r.Claim
	changed = sealed(t, changed, r, seals{nodeID(2)})
	want := `{"k":"service","i":"c000000000000001","t":6,"w":"` + string(nodeID(2)) +
		`","c":1,"svc":{"i":"c000000000000001","n":"shop","s":"rr","aaa":{"n":1},"timeout":5}}`
	if string(changed.Body) != want {
		t.Errorf("got  %s\nwant %s", changed.Body, want)
	}
	if back, err := Decode(lineOf(t, changed), verifier{}); err != nil || back.Service.Name != "shop" {
		t.Errorf("%v, %v", back.Service, err)
	}
	// A tombstone has nothing of it.
	tomb := mesh.Record{Kind: changed.Kind, ID: changed.ID, Deleted: true, Version: mesh.Version{Time: 7, Writer: nodeID(2)}, Claim: 1}
	if tomb = sealed(t, tomb, changed, nil); bytes.Contains(tomb.Body, []byte("timeout")) {
		t.Errorf("%s", tomb.Body)
	}
}

func TestUnknownFormatIsRefused(t *testing.T) {
	good := goodLine(t)
	for name, line := range map[string][]byte{
		"the same fields": bytes.Replace(good, []byte(`{`), []byte(`{"v":3,`), 1),
		"other types":     []byte(`{"v":7,"k":"service","i":"c000000000000001","w":"` + string(nodeID(1)) + `","t":"now","svc":[]}`),
		"another noun":    []byte(`{"k":"policy","i":"c000000000000001","v":3}`),
	} {
		_, err := Decode(line, nil)
		if mesh.ReasonOf(err) != UnknownVersion || !strings.Contains(err.Error(), "c000000000000001") || !strings.Contains(err.Error(), "update sluice on this node") {
			t.Errorf("%s: %v", name, err)
		}
		records, left, err := decode(message(line, good), noticeLimit, nil)
		if err != nil || len(records) != 1 || left.count != 1 {
			t.Errorf("%s: %d records, %d left out, %v", name, len(records), left.count, err)
		}
	}
	if _, err := Decode(bytes.Replace(good, []byte(`{`), []byte(`{"v":1,`), 1), nil); err != nil {
		t.Errorf("the present format by name: %v", err)
	}
}

func TestSealRefusesTheTooLarge(t *testing.T) {
	r := service(1)
	r.Version, r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
	was := r
	was.Body = []byte(strings.Replace(string(sealed(t, r, mesh.Record{}, nil).Body), `"svc":{`, `"svc":{"later":"`+strings.Repeat("x", bodyLimit)+`",`, 1))
	if _, err := Seal(r, was, nil); mesh.ReasonOf(err) != mesh.BadValue {
		t.Errorf("got %v", err)
	}
	if _, err := Decode(was.Body, nil); mesh.ReasonOf(err) != mesh.BadRecord {
		t.Errorf("got %v", err)
	}
}

type verbose struct{}

func (verbose) Sign([]byte) []byte { return make([]byte, SignatureLimit+1) }

func TestSealRefusesALongSignature(t *testing.T) {
	r := service(1)
	r.Version, r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
	if _, err := Seal(r, mesh.Record{}, verbose{}); err == nil {
		t.Error("nobody would take it")
	}
}

func BenchmarkSealDecode(b *testing.B) {
	r := service(1)
	r.Version, r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
	for b.Loop() {
		line := lineOf(b, sealed(b, r, mesh.Record{}, nil))
		if _, err := Decode(line, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// The file was written by the first format's encoder.
func TestFormat1(t *testing.T) {
	msg, err := os.ReadFile("testdata/format1.msg")
	if err != nil {
		t.Fatal(err)
	}
	records, left, err := decode(msg, noticeLimit, nil)
	if err != nil || left.count != 0 || len(records) != 8 {
		t.Fatalf("%d records, %d left out (%v), %v", len(records), left.count, left.first, err)
	}
	lines := make([][]byte, len(records))
	kinds := map[mesh.Kind]int{}
	for i, r := range records {
		kinds[r.Kind]++
		if lines[i] = lineOf(t, sealed(t, r, mesh.Record{}, nil)); !bytes.Equal(lines[i], r.Body) {
			t.Errorf("%s is written as %s now: an older node has other bytes of the same record", r.Body, lines[i])
		}
	}
	if want := map[mesh.Kind]int{mesh.KindNode: 2, mesh.KindNetwork: 2, mesh.KindService: 2, mesh.KindEndpoint: 2}; !maps.Equal(kinds, want) {
		t.Errorf("%v", kinds)
	}
}

// What a node of the first format would read as something else is written so that it refuses it.
func TestFormatOfWhatIsNew(t *testing.T) {
	network := func(change func(n *mesh.Network)) mesh.Record {
		n := mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), 7)
		n.ID, n.EntryVNI, n.Pool = "b000000000000001", 0, netip.Prefix{}
		change(n)
		return mesh.NetworkRecord(n)
	}
	published := func(change func(s *mesh.Service)) mesh.Record {
		r := service(1)
		s := *r.Service
		s.Publish = []mesh.PublishedPort{{Proto: mesh.TCP, Published: 80, Target: 80}}
		change(&s)
		return mesh.ServiceRecord(&s)
	}
	ours := &mesh.Endpoint{ID: "d000000000000001", Name: "e", Service: "c000000000000001", Node: nodeID(1), State: mesh.Ready, Weight: 1}
	joined := *ours
	joined.Joined = []mesh.Joined{{Network: "b000000000000001", Gateway: 1}}
	for name, c := range map[string]struct {
		r    mesh.Record
		want int
	}{
		"overlay":     {network(func(n *mesh.Network) { n.Driver = mesh.Overlay }), 0},
		"internal":    {network(func(n *mesh.Network) { n.Internal = true }), 2},
		"apart":       {network(func(n *mesh.Network) { n.Apart = true }), 2},
		"MTU":         {network(func(n *mesh.Network) { n.MTU = 1400 }), 2},
		"mesh port":   {published(func(*mesh.Service) {}), 0},
		"names":       {published(func(s *mesh.Service) { s.Aliases, s.Stack, s.Mode = []string{"db"}, "shop", mesh.RoundRobinDNS }), 0},
		"hosted port": {published(func(s *mesh.Service) { s.Publish[0].Mode = mesh.Hosted }), 2},
		"sources":     {published(func(s *mesh.Service) { s.Publish[0].Sources = "10.0.0.0/8" }), 2},
		"endpoint":    {mesh.EndpointRecord(ours), 0},
		"joined":      {mesh.EndpointRecord(&joined), 2},
		"bridge": {network(func(n *mesh.Network) {
			n.Driver, n.VNI, n.Bits4 = mesh.Bridge, 0, 0
			n.Subnet6 = netip.MustParsePrefix("fd00:1::/64")
			n.Gateway4, n.Gateway6 = n.Subnet4.Addr().Next(), n.Subnet6.Addr().Next()
		}), 2},
	} {
		c.r.Version, c.r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
		body := sealed(t, c.r, mesh.Record{}, nil).Body
		var head wireHead
		if err := json.Unmarshal(body, &head); err != nil || head.Format != c.want {
			t.Errorf("%s has format %d, %v", name, head.Format, err)
		}
		if _, err := Decode(body, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a record has, a change of it is a good record with the same unknown fields.
func FuzzSeal(f *testing.F) {
	f.Add(goodLine(f))
	f.Add([]byte(`{"k":"service","i":"c000000000000001","t":5,"w":"a000000000000001","c":1,"svc":{"i":"c000000000000001","n":"web","s":"rr","\u212a":1,"N":"other","é\u0000":[{}],"later":1e999}}`))
	f.Add([]byte(`{"k":"node","i":"a000000000000001","t":5,"w":"a000000000000001","c":1,"node":{"i":"a000000000000001","n":"n1","a":"192.0.2.1","vp":4789,"m":1500,"zone":"x"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		was, err := Decode(line, nil)
		if err != nil {
			return
		}
		next := was
		next.Version.Time = was.Version.Time/2 + 1<<61
		if next.Validate() != nil {
			return
		}
		next, err = Seal(next, was, nil)
		if err != nil {
			if mesh.ReasonOf(err) != mesh.BadValue {
				t.Fatal(err)
			}
			return
		}
		back, err := Decode(lineOf(t, next), nil)
		if err != nil {
			t.Fatalf("%s: %v", next.Body, err)
		}
		if diff := cmp.Diff(next, back, sameValues); diff != "" {
			t.Fatal(diff)
		}
		a, b := compact(t, unknownFields(next, was)), compact(t, unknownFields(back, back))
		if !maps.Equal(a, b) {
			t.Fatalf("unknown fields %v became %v", a, b)
		}
	})
}

func compact(t *testing.T, fields map[string]json.RawMessage) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for name, raw := range fields {
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			t.Fatal(err)
		}
		texts[name] = b.String()
	}
	return texts
}
