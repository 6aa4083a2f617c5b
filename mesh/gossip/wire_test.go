package gossip

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

func hexID[T ~string]() *rapid.Generator[T] {
	return rapid.Map(rapid.StringMatching(`[0-9a-f]{16}`), func(s string) T { return T(s) })
}

func name() *rapid.Generator[string] { return rapid.StringMatching(`[a-z][a-z0-9]{0,20}`) }

func addr4() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom4([4]byte{byte(rapid.IntRange(1, 223).Draw(t, "a")), 1, rapid.Byte().Draw(t, "b"), rapid.Byte().Draw(t, "c")})
	}).Filter(func(a netip.Addr) bool { return !a.IsLoopback() })
}

func addr6() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfd, 5: rapid.Byte().Draw(t, "a"), 15: rapid.Byte().Draw(t, "b")})
	})
}

func records() *rapid.Generator[mesh.Record] {
	return rapid.Custom(func(t *rapid.T) mesh.Record {
		writer := hexID[mesh.NodeID]().Draw(t, "writer")
		var r mesh.Record
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			n := &mesh.Node{
				ID: writer, Name: name().Draw(t, "name"), Addr: rapid.OneOf(addr4(), addr6()).Draw(t, "addr"),
				GossipPort: rapid.Uint16Max(999).Draw(t, "gossip port"), VXLANPort: rapid.Uint16Min(1000).Draw(t, "port"), MTU: rapid.IntRange(1350, 65535).Draw(t, "mtu"),
				Slot: mesh.Slot(rapid.Uint16().Draw(t, "slot")), SlotClaim: rapid.Uint64().Draw(t, "slot claim"),
			}
			for i := range rapid.IntRange(0, 3).Draw(t, "blocks") {
				n.Blocks = append(n.Blocks, mesh.Block{
					Network: hexID[mesh.NetworkID]().Draw(t, "network"), V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 26),
					V6: netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: byte(i)}), 64), Claim: rapid.Uint64().Draw(t, "claim"),
				})
			}
			for i := range rapid.IntRange(0, 3).Draw(t, "held") {
				h := mesh.HeldPort{Proto: rapid.SampledFrom([]mesh.Proto{mesh.TCP, mesh.UDP}).Draw(t, "proto"), Published: uint16(1 + i), By: rapid.StringMatching(`[ -~]{1,100}`).Draw(t, "by")}
				if rapid.Bool().Draw(t, "on one address") {
					h.Addr = rapid.OneOf(addr4(), addr6()).Draw(t, "addr")
				}
				n.Held = append(n.Held, h)
			}
			n.Held = mesh.Reported(n.Held)
			for i := range rapid.IntRange(0, 2).Draw(t, "routes") {
				n.Routes = append(n.Routes, mesh.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i)}), 16), By: "route dev eth0"})
			}
			r = mesh.NodeRecord(n)
		case 1:
			n := mesh.NewIngress(mesh.DefaultIngress(), mesh.DefaultPool(), rapid.Uint64().Draw(t, "seed"))
			if n.Name = name().Draw(t, "name"); rapid.Bool().Draw(t, "user network") {
				n.ID, n.EntryVNI, n.Pool = "b000000000000000", 0, netip.Prefix{}
			}
			for i := range rapid.IntRange(0, 3).Draw(t, "further subnets") {
				n.More = append(n.More, mesh.Subnet{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 20), Claim: 1})
			}
			if n.Driver = rapid.SampledFrom([]mesh.Driver{"", mesh.Overlay, mesh.Bridge}).Draw(t, "driver"); n.Bridged() {
				n.ID, n.Bits4, n.VNI, n.EntryVNI, n.Pool, n.More = "b000000000000001", 0, 0, 0, netip.Prefix{}, nil
				n.Gateway4, n.Gateway6, n.Routed = n.Subnet4.Addr().Next(), n.Subnet6.Addr().Next(), rapid.Bool().Draw(t, "routed")
			}
			if !n.Ingress() {
				n.Internal, n.Apart, n.MTU = rapid.Bool().Draw(t, "internal"), rapid.Bool().Draw(t, "apart"), rapid.SampledFrom([]int{0, 1280, 65535}).Draw(t, "mtu")
			}
			r = mesh.NetworkRecord(n)
		case 2:
			s := &mesh.Service{ID: hexID[mesh.ServiceID]().Draw(t, "id"), Name: name().Draw(t, "name"), Scheduler: rapid.SampledFrom(mesh.Schedulers()).Draw(t, "scheduler")}
			s.Affinity = time.Duration(rapid.IntRange(0, 86400).Draw(t, "affinity")) * time.Second
			for i := range rapid.IntRange(0, 3).Draw(t, "ports") {
				p := mesh.PublishedPort{Proto: rapid.SampledFrom([]mesh.Proto{mesh.TCP, mesh.UDP, mesh.SCTP}).Draw(t, "proto"), Published: uint16(100 + i), Target: rapid.Uint16Min(1).Draw(t, "target")}
				if rapid.Bool().Draw(t, "on one address") {
					p.Addr = rapid.OneOf(addr4(), addr6()).Draw(t, "addr")
				}
				if rapid.Bool().Draw(t, "hosted") {
					if p.Mode = mesh.Hosted; rapid.Bool().Draw(t, "ranged") {
						p.Published = uint16(1000 + 100*i)
						p.Target, p.Last = p.Published, p.Published+50
					}
				}
				p.Sources = rapid.SampledFrom([]mesh.Sources{"", "10.0.0.0/8,2001:db8::/32"}).Draw(t, "sources")
				s.Publish = append(s.Publish, p)
			}
			for range rapid.IntRange(0, 3).Draw(t, "networks") {
				s.Networks = append(s.Networks, hexID[mesh.NetworkID]().Draw(t, "network"))
			}
			s.Mode = rapid.SampledFrom([]mesh.EndpointMode{"", mesh.VirtualIP, mesh.RoundRobinDNS}).Draw(t, "mode")
			if rapid.Bool().Draw(t, "named") {
				s.Stack, s.Aliases = name().Draw(t, "stack"), []string{"a1", "b.c"}
				s.Virtual = []mesh.Attachment{{Network: "b000000000000001", V4: addr4().Draw(t, "virtual 4"), V6: addr6().Draw(t, "virtual 6")}}
			}
			r = mesh.ServiceRecord(s)
		default:
			e := &mesh.Endpoint{
				ID: hexID[mesh.EndpointID]().Draw(t, "id"), Name: name().Draw(t, "name"), Service: hexID[mesh.ServiceID]().Draw(t, "service"),
				Node: writer, State: rapid.SampledFrom([]mesh.EndpointState{mesh.Ready, mesh.Draining}).Draw(t, "state"), Weight: rapid.IntRange(1, 65535).Draw(t, "weight"),
			}
			if rapid.Bool().Draw(t, "attached") {
				e.Attached = []mesh.Attachment{{Network: hexID[mesh.NetworkID]().Draw(t, "network"), V4: addr4().Draw(t, "4"), V6: addr6().Draw(t, "6")}}
			}
			if rapid.Bool().Draw(t, "fixed") {
				e.Fixed = []netip.Addr{addr4().Draw(t, "fixed 4"), addr6().Draw(t, "fixed 6")}
			}
			for _, a := range e.Attached[:min(len(e.Attached), rapid.IntRange(0, 1).Draw(t, "left"))] {
				e.Left = append(e.Left, mesh.Freed{Network: a.Network, V4: a.V4, V6: a.V6, Since: 1})
			}
			if rapid.Bool().Draw(t, "joined") {
				e.Joined = []mesh.Joined{{
					Network: hexID[mesh.NetworkID]().Draw(t, "joined network"), ByService: rapid.Bool().Draw(t, "by service"), MAC: [6]byte{2, rapid.Byte().Draw(t, "mac")}, Interface: "eth0",
					Aliases: []string{"db"}, Gateway: rapid.IntRange(-9, 9).Draw(t, "gateway"),
					Sysctls: []mesh.InterfaceSysctl{{Family: "ipv4", Table: "conf", Key: "forwarding", Value: "1"}},
				}}
			}
			r = mesh.EndpointRecord(e)
		}
		if rapid.Bool().Draw(t, "tombstone") {
			r = mesh.Tombstone(r)
		}
		r.Version = mesh.Version{Time: rapid.Uint64Min(1).Draw(t, "time"), Writer: writer}
		r.Claim = rapid.Uint64Range(1, r.Version.Time).Draw(t, "claim")
		return r
	}).Filter(func(r mesh.Record) bool { return r.Validate() == nil })
}

var sameValues = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(records(), 0, 5).Draw(t, "records")
		lines := make([][]byte, len(in))
		for i, r := range in {
			r, err := Seal(r, mesh.Record{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "signed") {
				r.Sig = rapid.SliceOfN(rapid.Byte(), 1, SignatureLimit).Draw(t, "signature")
			}
			if lines[i], err = Encode(r); err != nil {
				t.Fatal(err)
			}
			in[i] = r
		}
		msg := message(lines...)
		out, left, err := decode(msg, noticeLimit, nil)
		if err != nil || left.count != 0 {
			t.Fatalf("left out %d (%v), error %v", left.count, left.first, err)
		}
		if diff := cmp.Diff(in, out, sameValues); diff != "" {
			t.Fatal(diff)
		}
		for i, r := range out {
			if again, err := Encode(r); err != nil || !bytes.Equal(lines[i], again) {
				t.Fatalf("bytes differ: %s and %s, %v", lines[i], again, err)
			}
		}
	})
}

func goodLine(tb testing.TB) []byte {
	tb.Helper()
	r := service(1)
	r.Version, r.Claim = mesh.Version{Time: 2, Writer: nodeID(1)}, 1
	line, err := Encode(r)
	if err != nil {
		tb.Fatal(err)
	}
	return line
}

func TestDecodeRefuses(t *testing.T) {
	good := goodLine(t)
	for _, c := range []struct {
		name string
		msg  []byte
		want mesh.Reason
		says string
	}{
		{"nothing", nil, mesh.BadRecord, "0 bytes"},
		{"too much", make([]byte, 101), mesh.BadRecord, "limit is 100"},
		{"another version", []byte{9, '{', '}'}, UnknownVersion, "version 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := decode(c.msg, 100, nil)
			var refusal *mesh.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("bad lines lose only themselves", func(t *testing.T) {
		hostile := bytes.Replace(good, []byte(`"s1"`), []byte(`"$(x)"`), 1)
		newer := bytes.Replace(good, []byte(`{`), []byte(`{"later":[1,{"x":2}],`), 1)
		got, left, err := decode(message([]byte(`{"k":`), good, hostile, []byte(`null`), []byte(`[]`), newer), noticeLimit, nil)
		if err != nil || len(got) != 2 || left.count != 4 || left.first == nil {
			t.Errorf("%d records, %d left out (%v), %v", len(got), left.count, left.first, err)
		}
	})
	t.Run("too many records", func(t *testing.T) {
		msg := append([]byte{wireVersion}, bytes.Repeat([]byte{'\n'}, countLimit+10)...)
		if _, left, err := decode(msg, noticeLimit, nil); err != nil || left.count != countLimit+1 {
			t.Errorf("%d left out, %v", left.count, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add(message(goodLine(f), goodLine(f)))
	f.Add(message([]byte(`{"k":"node","i":"a000000000000001","t":5,"w":"a000000000000001","c":1,"node":{"i":"a000000000000001","n":"n1","a":"192.0.2.1","vp":4789,"m":1500,"s":7,"b":[{"n":"0000000000000001","4":"198.18.0.0/27","6":"fd00::/64","c":3}]}}`)))
	f.Add(message([]byte(`{"k":"node","i":"a000000000000001","t":5,"w":"a000000000000001","c":1,"node":{"i":"a000000000000001","n":"n1","a":"192.0.2.1","vp":4789,"m":1500,"h":[{"x":"tcp","p":8080,"by":"nginx (pid 812)"},{"a":"2001:db8::1","x":"udp","p":53,"by":"a rule in table ip nat chain DOCKER"}]}}`)))
	f.Add(message([]byte(`{"k":"endpoint","i":"d000000000000001","t":5,"w":"a000000000000001","c":1,"d":true}`)))
	f.Add(message(append(goodLine(f), "\tc2lnbmF0dXJl"...), append(goodLine(f), "\tc2lnbmF0dXJl="...)))
	f.Add(message([]byte(`{"v":2,"k":"endpoint","i":"d000000000000001","t":"later","w":"a000000000000001"}`)))
	f.Add(message([]byte(` { "k" : "endpoint" , "i":"d000000000000001","t":5,"w":"a000000000000001","c":1,"d":true,"later":{} } `)))
	f.Add([]byte{})
	f.Add(message([]byte(`{"k":"endpoint","i":"d000000000000001","t":5,"w":"a000000000000001","c":1,"d":true,"f":[{"n":"0000000000000001","4":"198.18.0.5","6":"fd00::6"}],"fs":"c000000000000001"}`)))
	f.Add(message([]byte(`{"k":"network","i":"b000000000000001","t":5,"w":"a000000000000001","c":1,"net":{"i":"b000000000000001","n":"blue","4":"10.0.0.0/24","6":"fd00::/48","b":26,"m":[{"p":"10.1.0.0/20","c":3},{"p":"fd01::/48","c":4}],"v":1048580}}`)))
	f.Add(message([]byte(`{"v":2,"k":"network","i":"b000000000000001","t":5,"w":"a000000000000001","c":1,"net":{"i":"b000000000000001","n":"lan","4":"10.0.0.0/24","6":"fd00::/64","b":0,"v":0,"d":"bridge","g4":"10.0.0.1","g6":"fd00::1","r":true,"mtu":1400}}`)))
	f.Add(message([]byte(`{"v":2,"k":"service","i":"c000000000000001","t":5,"w":"a000000000000001","c":1,"svc":{"i":"c000000000000001","n":"web","s":"rr","p":[{"x":"udp","p":80,"t":80,"m":"host","l":90,"s":"10.0.0.0/8"}],"al":["a"],"m":"dnsrr","va":[{"n":"b000000000000001","4":"10.0.0.1","6":"fd00::1"}]}}`)))
	f.Add([]byte{2, '{', '}'})
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, left, err := decode(msg, noticeLimit, nil)
		if err != nil && (len(got) > 0 || left.count > 0) {
			t.Fatal("records besides an error")
		}
		for _, r := range got {
			line, err := Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(msg, line) {
				t.Fatalf("%q is not what came in", line)
			}
			again, left, err := decode(message(line), noticeLimit, nil)
			if err != nil || left.count != 0 || len(again) != 1 {
				t.Fatalf("%s: %v, %v", line, left.first, err)
			}
			if diff := cmp.Diff(r, again[0], sameValues); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func TestPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOf(rapid.Custom(func(t *rapid.T) []byte {
			return bytes.Repeat([]byte{'x'}, rapid.IntRange(1, 120).Draw(t, "size"))
		})).Draw(t, "lines")
		var joined []byte
		for _, msg := range pack(lines, 100) {
			if len(msg) > 100 && bytes.Count(msg, []byte{'\n'}) > 1 {
				t.Fatalf("%d bytes", len(msg))
			}
			joined = append(joined, msg[1:]...)
		}
		if want := message(lines...)[1:]; !bytes.Equal(joined, want) {
			t.Fatal("lines lost or out of order")
		}
	})
}
