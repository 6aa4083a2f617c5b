package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/internal/plan"
)

func portRanges(elements ...plan.Element) *plan.Set {
	return &plan.Set{
		Name: "ranges", Key: []plan.Field{plan.FieldProto, plan.FieldPort}, Value: []plan.Field{plan.FieldIPv4}, Ranges: true, Elements: elements,
	}
}

func rangeTable(sets ...*plan.Set) *plan.Table {
	t := &plan.Table{Family: "inet", Sets: sets}
	t.Chain("c", "type nat hook prerouting priority dstnat;").Rule("dnat ip to meta l4proto . th dport map @ranges")
	return t
}

// Sets with ranges are what nft takes, come back equal, and change in place.
func TestRangesInAKernel(t *testing.T) {
	sources := &plan.Set{
		Name: "sources", Key: []plan.Field{plan.FieldProto, plan.FieldPort, plan.FieldIPv4}, Ranges: true,
		Elements: []plan.Element{
			{Key: "tcp . 80 . 0.0.0.0-255.255.255.255"}, {Key: "tcp . 81-82 . 10.0.0.0-10.255.255.255"}, {Key: "tcp . 81 . 192.0.2.1"}, {Key: "tcp . 83 . 10.0.0.1-10.0.0.9"},
		},
	}
	sources6 := &plan.Set{
		Name: "sources6", Key: []plan.Field{plan.FieldProto, plan.FieldPort, plan.FieldIPv6}, Ranges: true,
		Elements: []plan.Element{{Key: "tcp . 80 . ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, {Key: "udp . 80 . fd00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}, {Key: "udp . 80 . fe80::1"}},
	}
	first := rangeTable(portRanges(
		plan.Element{Key: "tcp . 80", Value: "10.0.0.9"}, plan.Element{Key: "tcp . 8000-8010", Value: "10.0.0.1"},
		plan.Element{Key: "udp . 8000-8010", Value: "10.0.0.1"}, plan.Element{Key: "udp . 1-65535", Value: "10.0.0.3"},
	), sources, sources6)
	first.Sets[0].Elements = slices.Delete(first.Sets[0].Elements, 2, 3)
	t.Run("as nft loads it", func(t *testing.T) {
		s := &plan.Sandbox{Name: "s", Tables: []*plan.Table{first}}
		checkTables(t, s)
	})
	n := testNamespace(t)
	bring(t, n, first)
	next := rangeTable(portRanges(
		plan.Element{Key: "tcp . 8000-8005", Value: "10.0.0.1"}, plan.Element{Key: "tcp . 8006-8010", Value: "10.0.0.2"},
		plan.Element{Key: "udp . 1-65535", Value: "10.0.0.4"},
	), sources, sources6)
	for _, op := range bring(t, n, next) {
		if !strings.HasPrefix(op, "replace s: nft elements") {
			t.Errorf("rules were loaded again: %s", op)
		}
	}
	expect(t, bring(t, n, next))
	n.nft.close() // as an agent that was started again
	n.nft.last = nftReading{}
	expect(t, bring(t, n, next))
	if listed := nftProgram(t, n, "", "list", "map", "inet", plan.TableName, "ranges"); !strings.Contains(listed, "tcp . 8006-8010 : 10.0.0.2") {
		t.Errorf("nft lists %s", listed)
	}
	nftProgram(t, n, "", "delete", "element", "inet", plan.TableName, "ranges", "{ tcp . 8000-8005 }")
	if ops := bring(t, n, next); len(ops) != 1 {
		t.Errorf("an element that somebody took: %v", ops)
	}
	expect(t, bring(t, n, next))
}

// What a kernel refuses the fake does too: elements of one set with a member in common.
func TestRangesThatOverlap(t *testing.T) {
	for _, keys := range [][2]string{
		{"tcp . 8000-8010", "tcp . 8010-8020"},
		{"tcp . 8000-8010", "tcp . 8005"},
		{"tcp . 8000", "tcp . 7000-9000"}, // a kernel looks at the ends of the second only
	} {
		table := rangeTable(portRanges(plan.Element{Key: keys[0], Value: "10.0.0.1"}, plan.Element{Key: keys[1], Value: "10.0.0.2"}))
		if err := testNamespace(t).loadTable(table); err == nil && keys[0] != "tcp . 8000" {
			t.Errorf("the kernel takes %v", keys)
		}
		f := NewFake()
		if report := f.Apply(t.Context(), &plan.Plan{Sandboxes: []*plan.Sandbox{{Name: plan.HostSandbox, Kind: plan.KindHost, Tables: []*plan.Table{table}}}}); len(report.Failed) == 0 {
			t.Errorf("the fake takes %v", keys)
		}
	}
}

func TestRangesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fields := rapid.SliceOfN(rapid.SampledFrom(allFields()), 2, 4).Draw(t, "fields")
		parts := make([]string, len(fields))
		for i, f := range fields {
			a, b := fieldText(t, f), fieldText(t, f)
			ea, _ := encodeFields([]plan.Field{f}, a)
			eb, _ := encodeFields([]plan.Field{f}, b)
			if parts[i] = a; canRange(f) && bytes.Compare(ea, eb) < 0 {
				parts[i] = a + "-" + b
			}
		}
		key := plan.Join(parts...)
		from, to, err := encodeRange(fields, key)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRange(fields, from, to); err != nil || back != key {
			t.Fatalf("%q came back as %q, %v", key, back, err)
		}
	})
}

func TestRangesRefused(t *testing.T) {
	ports := []plan.Field{plan.FieldProto, plan.FieldPort}
	for text, fields := range map[string][]plan.Field{
		"tcp . 8010-8000":   ports,
		"tcp . 80-80":       ports,
		"tcp . 80-":         ports,
		"tcp . -80":         ports,
		"tcp . 1-2-3":       ports,
		"tcp . 1-65536":     ports,
		"tcp-udp . 80":      ports,
		"80-81":             {plan.FieldPort},
		"tcp . 10.0.0.1/8":  {plan.FieldProto, plan.FieldIPv4},
		"tcp . 10.0.0.1/32": {plan.FieldProto, plan.FieldIPv4},
		"tcp . fd00::/8":    {plan.FieldProto, plan.FieldIPv4, plan.FieldPort},
		"02:00:00:00:00:01-02:00:00:00:00:02 . 80": {plan.FieldMAC, plan.FieldPort},
	} {
		if from, _, err := encodeRange(fields, text); err == nil {
			t.Errorf("%s became %x", text, from)
		}
	}
	if text, err := decodeRange(ports, binary.BigEndian.AppendUint32(nil, 6<<24), []byte{6}); err == nil {
		t.Errorf("too few bytes are %q", text)
	}
}

// 20,000 ranges are loaded, found and changed in a time that a node can wait.
func TestManyRanges(t *testing.T) {
	const many = 20000
	var elements []plan.Element
	for i := range many {
		elements = append(elements, plan.Element{Key: fmt.Sprintf("udp . %d-%d", 3*i+1, 3*i+2), Value: "10.0.0.1"})
	}
	slices.SortFunc(elements, compareElement)
	n := testNamespace(t)
	began := time.Now()
	bring(t, n, rangeTable(portRanges(elements...)))
	loaded := time.Since(began)
	began = time.Now()
	expect(t, bring(t, n, rangeTable(portRanges(elements...))))
	looked := time.Since(began)
	began = time.Now()
	change := slices.Clone(elements)
	change[many/2].Value = "10.0.0.2"
	if ops := bring(t, n, rangeTable(portRanges(change...))); len(ops) != 1 {
		t.Errorf("a change of one: %v", ops)
	}
	t.Logf("%d ranges: loaded in %s, looked at in %s, one changed in %s", many, loaded, looked, time.Since(began))
}
