package kernel

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// fieldText draws the text of a field as a plan would have it.
func fieldText(t *rapid.T, f plan.Field) string {
	raw := func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes") }
	switch f {
	case plan.FieldIPv4:
		return netip.AddrFrom4([4]byte(raw(4))).String()
	case plan.FieldIPv6:
		return netip.AddrFrom16([16]byte(raw(16))).String()
	case plan.FieldTarget:
		return plan.TargetText(netip.AddrFrom16([16]byte(raw(16))))
	case plan.FieldMAC:
		return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", raw(1), raw(1), raw(1), raw(1), raw(1))
	case plan.FieldProto:
		return rapid.SampledFrom([]string{"tcp", "udp", "sctp", "1", "58"}).Draw(t, "proto")
	case plan.FieldPort, plan.FieldZone:
		return fmt.Sprint(rapid.Uint16().Draw(t, "number"))
	case plan.FieldMark:
		return plan.HexMark(rapid.Uint32().Draw(t, "mark"))
	default:
		return rapid.StringMatching(`[a-z0-9][a-zA-Z0-9._-]{0,14}`).Draw(t, "name")
	}
}

func allFields() []plan.Field {
	return []plan.Field{
		plan.FieldIPv4, plan.FieldIPv6, plan.FieldMAC, plan.FieldProto,
		plan.FieldPort, plan.FieldMark, plan.FieldIface, plan.FieldZone, plan.FieldTarget,
	}
}

func TestFieldsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfN(rapid.SampledFrom(allFields()), 1, 4).Draw(t, "fields")
		parts := make([]string, len(fields))
		for i, f := range fields {
			parts[i] = fieldText(t, f)
		}
		text := plan.Join(parts...)
		b, err := encodeFields(fields, text)
		if err != nil {
			t.Fatal(err)
		}
		if len(fields) > 1 && len(b)%register != 0 {
			t.Fatalf("%q: %d bytes are not padded", text, len(b))
		}
		back, err := decodeFields(fields, b)
		if err != nil || back != text {
			t.Fatalf("%q came back as %q, %v", text, back, err)
		}
	})
}

// Whatever bytes or text there are, the codec answers; and text it takes it
// gives back.
func TestFieldsTakeAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfN(rapid.SampledFrom(append(allFields(), "nonsense")), 0, 3).Draw(t, "fields")
		data := rapid.SliceOfN(rapid.Byte(), 0, 48).Draw(t, "data")
		if text, err := decodeFields(fields, data); err == nil && len(fields) == 1 {
			if b, err := encodeFields(fields, text); err != nil || !bytes.Equal(b, data) {
				t.Fatalf("%x is %q is %x, %v", data, text, b, err)
			}
		}
		text := rapid.String().Draw(t, "text")
		if b, err := encodeFields(fields, text); err == nil {
			if back, err := decodeFields(fields, b); err != nil || back != text {
				t.Fatalf("%q came back as %q, %v", text, back, err)
			}
		}
	})
}

// The bytes that nft 1.0.6 itself writes (nft --debug=netlink).
func TestFieldsAsNFTWritesThem(t *testing.T) {
	for _, c := range []struct {
		fields []plan.Field
		text   string
		want   string // hex, little-endian machines for mark and zone
	}{
		{[]plan.Field{plan.FieldMAC}, "02:53:e0:00:00:01", "0253e0000001"},
		{[]plan.Field{plan.FieldZone}, "258", "0201"},
		{[]plan.Field{plan.FieldMark}, "0x80000102", "02010080"},
		{[]plan.Field{plan.FieldMark, plan.FieldZone}, "0x102 . 258", "0201000002010000"},
		{[]plan.Field{plan.FieldIPv4, plan.FieldProto, plan.FieldPort}, "1.2.3.4 . tcp . 8080", "01020304060000001f900000"},
		{[]plan.Field{plan.FieldIface, plan.FieldIPv4}, "ep0a . 1.2.3.4", "6570306100000000000000000000000001020304"},
	} {
		b, err := encodeFields(c.fields, c.text)
		if got := fmt.Sprintf("%x", b); err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", c.text, got, err, c.want)
		}
	}
}

func TestFieldsRefused(t *testing.T) {
	for _, c := range []struct {
		field plan.Field
		text  string
	}{
		{plan.FieldIPv4, ""},
		{plan.FieldIPv4, "fd00::5"},
		{plan.FieldIPv4, "1.2.3.4/8"},
		{plan.FieldIPv6, "1.2.3.4"},
		{plan.FieldIPv6, "fe80::1%eth0"},
		{plan.FieldIPv6, "FD00::5"},
		{plan.FieldMAC, "02-53-e0-00-00-01"},
		{plan.FieldMAC, "02:53:e0:00:00:00:00:01"},
		{plan.FieldProto, "6"},
		{plan.FieldProto, "ospf"},
		{plan.FieldPort, "65536"},
		{plan.FieldPort, "080"},
		{plan.FieldPort, "http"},
		{plan.FieldMark, "257"},
		{plan.FieldMark, "0x00000101"},
		{plan.FieldZone, "-1"},
		{plan.FieldTarget, "fd00::1"},
		{plan.FieldTarget, "0xfd00"},
		{plan.FieldTarget, "fd000000000000000000000000000001"},
		{plan.FieldIface, ""},
		{plan.FieldIface, "name-too-long-16"},
		{plan.FieldIface, "ep*"},
		{plan.FieldIface, `a"b`},
		{plan.FieldIface, "a b"},
		{plan.FieldIface, "a; flush ruleset"},
		{"verdict", "accept"},
	} {
		if b, err := encodeFields([]plan.Field{c.field}, c.text); err == nil {
			t.Errorf("%s %q became %x", c.field, c.text, b)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %q: error has a line end", c.field, c.text)
		}
	}
	if _, err := encodeFields([]plan.Field{plan.FieldPort, plan.FieldPort}, "80"); err == nil {
		t.Error("one field of two became something")
	}
}
