package kernel

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// insert makes conntrack remember a flow as if its packets had come: protocol, whence and
// where to, and the same of its replies.
func insert(t *testing.T, n *namespace, zone int, flow string) {
	t.Helper()
	words := strings.Fields(flow)
	proto, ends := words[0], make([]netip.AddrPort, 4)
	for i := range ends {
		ends[i] = netip.MustParseAddrPort(words[1+i])
	}
	port := func(i int) string { return strconv.Itoa(int(ends[i].Port())) }
	args := []string{
		"-I", "-p", proto, "-t", "600", "-s", ends[0].Addr().String(), "-d", ends[1].Addr().String(), "--sport", port(0), "--dport", port(1),
		"-r", ends[2].Addr().String(), "-q", ends[3].Addr().String(), "--reply-port-src", port(2), "--reply-port-dst", port(3),
	}
	if zone != 0 {
		args = append(args, "--orig-zone", strconv.Itoa(zone))
	}
	if proto == "tcp" {
		args = append(args, "--state", "ESTABLISHED")
	}
	conntrack(t, n, args...)
}

func conntrack(t *testing.T, n *namespace, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := n.do(func() error {
		out, err := exec.CommandContext(ctx, "conntrack", args...).CombinedOutput()
		if err != nil {
			t.Logf("conntrack %s: %s", strings.Join(args, " "), out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// remembered are the flows of a namespace, one a line.
func remembered(t *testing.T, n *namespace) []string {
	t.Helper()
	flows, err := flowsOf(n.fd)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range flows {
		line := protoName(f.proto) + " " + f.from.String() + " seen as " + f.dst.String()
		if f.zone != 0 {
			line += " zone " + strconv.Itoa(int(f.zone))
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func wantRemembered(t *testing.T, n *namespace, want ...string) {
	t.Helper()
	if got := remembered(t, n); !slices.Equal(got, want) {
		t.Errorf("flows are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// zoned is a network sandbox with the flows of two clients by the nodes with slots 1 and 2.
func zoned(t *testing.T) *namespace {
	t.Helper()
	n := testNamespace(t)
	n.kind = plan.KindNetwork
	table := (&plan.Sandbox{}).Table("inet")
	table.Remember(plan.Over4, 100, 30*time.Second, plan.FieldIPv4, plan.FieldPort)
	table.Remember(plan.Over6, 100, 30*time.Second, plan.FieldIPv6, plan.FieldPort)
	if err := n.loadTable(table); err != nil {
		t.Fatal(err)
	}
	for _, zone := range []int{1, 2} {
		last := strconv.Itoa(zone)
		insert(t, n, zone, "tcp 192.0.2.7:4000 198.18.0."+last+":80 198.18.0."+last+":80 192.0.2.7:4000")
		insert(t, n, zone, "udp [2001:db8::7]:4000 [fd00::"+last+"]:80 [fd00::"+last+"]:80 [2001:db8::7]:4000")
	}
	// One client port by both nodes to one endpoint: the later one has another.
	insert(t, n, 1, "udp 192.0.2.7:5000 198.18.0.9:80 198.18.0.9:80 192.0.2.7:5000")
	insert(t, n, 2, "udp 192.0.2.7:5000 198.18.0.9:80 198.18.0.9:80 192.0.2.7:1024")
	insert(t, n, 1, "tcp 192.0.2.7:5000 198.18.0.9:80 198.18.0.9:80 192.0.2.7:5000")
	insert(t, n, 2, "tcp 192.0.2.7:5000 198.18.0.9:80 198.18.0.9:80 192.0.2.7:1024")
	insert(t, n, 0, "udp 198.18.0.9:80 203.0.113.1:53 203.0.113.1:53 198.18.0.9:80") // an endpoint's own
	return n
}

func TestZoneIsForgottenOnce(t *testing.T) {
	n := zoned(t)
	want := &plan.Sandbox{Name: "s", Zones: []plan.Zone{2, 3}}
	have, err := n.observeZones(want.Zones)
	if err != nil {
		t.Fatal(err)
	}
	ops := diffZones(want, have)
	if len(ops) != 1 || ops[0].String() != "delete s: flows    of zone 1" {
		t.Fatalf("ops are %v", ops)
	}
	if err := n.doZone(1); err != nil {
		t.Fatal(err)
	}
	wantRemembered(
		t, n,
		"tcp 192.0.2.7:4000 seen as 192.0.2.7:4000 zone 2",
		"tcp 192.0.2.7:5000 seen as 192.0.2.7:1024 zone 2", // a connection is never moved to another port
		"udp 198.18.0.9:80 seen as 198.18.0.9:80",
		"udp [2001:db8::7]:4000 seen as [2001:db8::7]:4000 zone 2",
	)
	if have, err = n.observeZones(want.Zones); err != nil || len(diffZones(want, have)) > 0 {
		t.Errorf("afterwards zones are %v, %v", have, err)
	}
	want.Zones = nil
	if have, err = n.observeZones(nil); err != nil || len(diffZones(want, have)) != 2 {
		t.Errorf("zones that were planned are %v, %v", have, err)
	}
	held, err := n.listTable("inet", plan.TableName)
	if err != nil || !strings.Contains(held, "192.0.2.7 . 5000 ") || !strings.Contains(held, "2001:db8::7 . 4000 ") || strings.Contains(held, "192.0.2.7 . 4000 ") {
		t.Errorf("held back are, %v:\n%s", err, held)
	}
}

// A sandbox that never told flows apart is not even looked at.
func TestZonesOfNone(t *testing.T) {
	n := &namespace{fd: -1}
	if have, err := n.observeZones(nil); err != nil || have != nil {
		t.Errorf("zones are %v, %v", have, err)
	}
}

// What a node says of its flows deletes those of that zone and sender, and no others.
func TestForgetOver(t *testing.T) {
	n := zoned(t)
	over := map[Sender]bool{{"tcp", netip.MustParseAddrPort("192.0.2.7:4000")}: true, {"udp", netip.MustParseAddrPort("192.0.2.7:4000")}: true}
	err := forgetZone(n.fd, 2, func(f *tracked) bool { return over[Sender{protoName(f.proto), f.from}] })
	if err != nil {
		t.Fatal(err)
	}
	wantRemembered(
		t, n,
		"tcp 192.0.2.7:4000 seen as 192.0.2.7:4000 zone 1",
		"tcp 192.0.2.7:5000 seen as 192.0.2.7:1024 zone 2",
		"tcp 192.0.2.7:5000 seen as 192.0.2.7:5000 zone 1",
		"udp 192.0.2.7:5000 seen as 192.0.2.7:1024 zone 2",
		"udp 192.0.2.7:5000 seen as 192.0.2.7:5000 zone 1",
		"udp 198.18.0.9:80 seen as 198.18.0.9:80",
		"udp [2001:db8::7]:4000 seen as [2001:db8::7]:4000 zone 1",
		"udp [2001:db8::7]:4000 seen as [2001:db8::7]:4000 zone 2",
	)
}

// Without the table nothing is held back, and said so; the flows go all the same.
func TestForgetWithoutTable(t *testing.T) {
	n := zoned(t)
	if err := n.deleteTable("inet"); err != nil {
		t.Fatal(err)
	}
	if err := forgetZone(n.fd, 1, func(*tracked) bool { return true }); err == nil {
		t.Error("nobody was told")
	}
	if got := strings.Join(remembered(t, n), "\n"); strings.Contains(got, "zone 1") {
		t.Errorf("flows are\n%s", got)
	}
}

// A message that is cut off anywhere is no flow, and no crash.
func FuzzParseTracked(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 1, 0x80, 4, 0, 1, 0x80, 8, 0, 2, 0x80, 4, 0, 1, 0x80})
	f.Fuzz(func(t *testing.T, message []byte) {
		if flow, ok := parseTracked(message); ok && (!flow.from.IsValid() || !flow.dst.IsValid()) {
			t.Errorf("%x is %+v", message, flow)
		}
	})
}
