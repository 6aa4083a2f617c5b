package kernel

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// testNamespace makes an unnamed network namespace that lives as long as the test.
func testNamespace(tb testing.TB) *namespace {
	tb.Helper()
	var fd netns.NsHandle
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var err error
		fd, err = netns.New()
		made <- err
	}()
	if err := <-made; err != nil {
		tb.Fatal("a new network namespace needs root:", err)
	}
	link, err := netlink.NewHandleAt(fd)
	if err != nil {
		tb.Fatal(err)
	}
	n := &namespace{name: "s", fd: fd, link: link}
	tb.Cleanup(func() {
		n.nft.close()
		n.ipvs.close()
		link.Close()
		fd.Close()
	})
	return n
}

// nftProgram runs nft in the namespace.
func nftProgram(tb testing.TB, n *namespace, stdin string, args ...string) string {
	tb.Helper()
	var out []byte
	err := n.do(func() error {
		cmd := exec.Command("nft", args...)
		cmd.Stdin = strings.NewReader(stdin)
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		tb.Fatalf("nft %s: %v\n%s\n%s", strings.Join(args, " "), err, out, stdin)
	}
	return string(out)
}

// bring makes the tables of n equal to want once and says what it did.
func bring(tb testing.TB, n *namespace, want ...*plan.Table) []string {
	tb.Helper()
	have, err := n.observeNFT(want)
	if err != nil {
		tb.Fatal("observe:", err)
	}
	ops := diffNFT("s", want, have)
	for _, op := range ops {
		if err := n.doNFT(op); err != nil {
			tb.Fatalf("%s: %v", op, err)
		}
	}
	return lines(ops)
}

func expect(tb testing.TB, got []string, want ...string) {
	tb.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		tb.Fatalf("did %q, want %q", got, want)
	}
}

const (
	addInet     = "add s: nft table inet sluice"
	replaceInet = "replace s: nft table inet sluice"
)

func TestTableComesChangesAndGoes(t *testing.T) {
	n := testNamespace(t)
	nftProgram(t, n, "table inet other { set published { type inet_service; elements = { 1 }; }; }\n", "-f", "-")
	expect(t, bring(t, n))
	expect(t, bring(t, n, smallTable()), addInet)
	expect(t, bring(t, n, smallTable()))

	next := smallTable()
	next.Set("published").Add("udp", "53")
	next.Sets[1].Elements[0].Value = "0x102" // the same key
	expect(t, bring(t, n, next), "replace s: nft elements inet published +1 -0, services4 +1 -1")
	expect(t, bring(t, n, next))
	listed := nftProgram(t, n, "", "list", "map", "inet", "sluice", "services4")
	if !strings.Contains(listed, "169.254.77.2 . tcp . 8080 : 0x00000102") {
		t.Error("the map did not get its new value:", listed)
	}

	next.Chain("capture", "").Rule("drop")
	expect(t, bring(t, n, next), replaceInet)
	expect(t, bring(t, n, next))
	expect(t, bring(t, n), "delete s: nft table inet sluice")
	if err := n.doNFT(Op{Delete, "s", TableLoad{smallTable()}}); err != nil {
		t.Error("deleting what is absent:", err)
	}
	if left := nftProgram(t, n, "", "list", "tables"); left != "table inet other\n" {
		t.Errorf("left: %q", left)
	}
}

// What somebody else breaks is seen, each in the way that mends it.
func TestBrokenTableIsMended(t *testing.T) {
	for damage, mend := range map[string]string{
		"flush chain inet sluice capture": replaceInet,
		"delete table inet sluice":        addInet,
		"flush ruleset":                   addInet,
		"flush chain inet sluice forward; delete chain inet sluice forward":    replaceInet,
		"chain inet sluice forward { policy accept; }":                         replaceInet,
		"table inet sluice { flags dormant; }":                                 replaceInet,
		"add rule inet sluice capture accept":                                  replaceInet,
		"flush set inet sluice published":                                      "replace s: nft elements inet published +1 -0",
		"add element inet sluice published { tcp . 22 }":                       "replace s: nft elements inet published +0 -1",
		"add element inet sluice published { icmp . 22 }":                      "replace s: nft elements inet published +0 -1",
		"delete element inet sluice services4 { 169.254.77.2 . tcp . 8080 }":   "replace s: nft elements inet services4 +1 -0",
		"add element inet sluice names { \"odd;name\" }":                       replaceInet,
		"flush ruleset; table inet sluice { chain sum_0123 { accept; }; }":     replaceInet,
		"delete chain inet sluice " + sumChain + skeletonSum(tableWithNames()): replaceInet,
	} {
		t.Run(damage, func(t *testing.T) {
			n := testNamespace(t)
			expect(t, bring(t, n, tableWithNames()), addInet)
			whole := nftProgram(t, n, "", "-s", "list", "ruleset")
			nftProgram(t, n, damage, "-f", "-")
			expect(t, bring(t, n, tableWithNames()), mend)
			if got := nftProgram(t, n, "", "-s", "list", "ruleset"); got != whole {
				t.Errorf("mended to\n%s\nfrom\n%s", got, whole)
			}
			expect(t, bring(t, n, tableWithNames()))
		})
	}
}

func tableWithNames() *plan.Table {
	t := smallTable()
	t.Set("names", plan.FieldIface).Add("ip") // a word of nft's
	return t
}

// A device that a rule knows by index may be made anew under its old name.
func TestTableFollowsItsDevices(t *testing.T) {
	n := testNamespace(t)
	table := &plan.Table{Family: "netdev"}
	table.Chain("back", "").Rule(`fwd to "vx"`)
	table.Chain("egress", `type filter hook egress device "out" priority 0; policy accept;`).Rule("jump back")
	for _, name := range []string{"vx", "out"} {
		addDevice(t, n, name)
	}
	expect(t, bring(t, n, table), "add s: nft table netdev sluice")
	expect(t, bring(t, n, table))
	whole := nftProgram(t, n, "", "-s", "list", "chain", "netdev", "sluice", "egress")
	for _, name := range []string{"vx", "out"} {
		delDevice(t, n, name)
		addDevice(t, n, name)
		expect(t, bring(t, n, table), "replace s: nft table netdev sluice")
		expect(t, bring(t, n, table))
		if got := nftProgram(t, n, "", "-s", "list", "chain", "netdev", "sluice", "egress"); got != whole {
			t.Errorf("after a new %s:\n%s\nwant\n%s", name, got, whole)
		}
	}
	delDevice(t, n, "vx")
	if err := n.doNFT(Op{Add, "s", TableLoad{table}}); err == nil {
		t.Error("a rule that sends to no device was loaded")
	}
}

func addDevice(tb testing.TB, n *namespace, name string) {
	tb.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "p-" + name[max(0, len(name)+2-nameLimit):]}
	if err := n.link.LinkAdd(pair); err != nil {
		tb.Fatal(err)
	}
}

func delDevice(tb testing.TB, n *namespace, name string) {
	tb.Helper()
	link, err := n.link.LinkByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	if err := n.link.LinkDel(link); err != nil {
		tb.Fatal(err)
	}
}

// A change that cannot be carried out whole is not carried out at all, and the
// connection is good afterwards.
func TestElementChangeIsAtomic(t *testing.T) {
	n := testNamespace(t)
	bring(t, n, smallTable())
	set := plan.Set{Name: "published", Key: []plan.Field{plan.FieldProto, plan.FieldPort}}
	change := func(come, gone string) Op {
		c := SetChange{Set: set, Come: []plan.Element{{Key: come}}}
		if gone != "" {
			c.Gone = []plan.Element{{Key: gone}}
		}
		return Op{Replace, "s", ElementChange{Family: "inet", Sets: []SetChange{c}}}
	}
	for name, op := range map[string]Op{
		"absent element": change("tcp . 1", "tcp . 2"),
		"bad text":       change("tcp . http", ""),
		"no such family": {Replace, "s", ElementChange{Family: "arp"}},
		"no such table":  {Replace, "s", ElementChange{Family: "ip", Sets: []SetChange{{Set: set, Come: []plan.Element{{Key: "tcp . 1"}}}}}},
		"another object": {Add, "s", plan.Addr{}},
		"bad element":    {Replace, "s", TableLoad{&plan.Table{Family: "inet", Sets: []*plan.Set{{Name: "x", Key: []plan.Field{plan.FieldIface}, Elements: []plan.Element{{Key: `x" }; flush ruleset; #`}}}}}}},
		"bad rule":       {Replace, "s", TableLoad{&plan.Table{Family: "inet", Chains: []*plan.Chain{{Name: "c", Rules: []string{"nonsense"}}}}}},
	} {
		err := n.doNFT(op)
		if err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q", name, err)
		}
		expect(t, bring(t, n, smallTable()))
	}
}

func TestNoNFTProgram(t *testing.T) {
	n := testNamespace(t)
	t.Setenv("PATH", t.TempDir())
	err := n.doNFT(Op{Add, "s", TableLoad{smallTable()}})
	var no *Refusal
	if !errors.As(err, &no) || no.Reason != plan.FeatureMissing {
		t.Fatalf("got %v", err)
	}
}

// Between two changes nothing is read more than twice; another program's change is seen.
func TestObserveReadsTwice(t *testing.T) {
	n := testNamespace(t)
	want := []*plan.Table{smallTable()}
	bring(t, n, want...)
	var first []loadedTable
	for range trustedReads {
		var err error
		if first, err = n.observeNFT(want); err != nil {
			t.Fatal(err)
		}
	}
	again, err := n.observeNFT(want)
	if err != nil || &first[0] != &again[0] {
		t.Fatal("read again though nothing changed:", err)
	}
	nftProgram(t, n, "table ip other { }", "-f", "-")
	if again, err = n.observeNFT(want); err != nil || &first[0] == &again[0] {
		t.Fatal("not read again after a change:", err)
	}
}

// manyElements is a table with n elements in a map.
func manyElements(n int) *plan.Table {
	t := smallTable()
	for i := range n {
		t.Sets[1].Put("0x102", fmt.Sprintf("198.18.%d.%d", i>>8&255, i&255), "udp", fmt.Sprint(i%60000+1))
	}
	return t
}

func TestManyElements(t *testing.T) {
	n := testNamespace(t)
	full, empty := manyElements(10_000), smallTable()
	bring(t, n, empty)
	expect(t, bring(t, n, full), "replace s: nft elements inet services4 +10000 -0")
	expect(t, bring(t, n, full))
	expect(t, bring(t, n, empty), "replace s: nft elements inet services4 +0 -10000")
	expect(t, bring(t, n, empty))
	full.Chain("capture", "").Rule("counter")
	expect(t, bring(t, n, full), replaceInet)
	expect(t, bring(t, n, full))
}

func BenchmarkElementChange(b *testing.B) {
	n := testNamespace(b)
	table := manyElements(10_000)
	bring(b, n, table)
	set := *table.Sets[1]
	change := func(value, old string) Op {
		key := "169.254.77.2 . tcp . 8080"
		return Op{Replace, "s", ElementChange{Family: "inet", Sets: []SetChange{{
			Set:  set,
			Come: []plan.Element{{Key: key, Value: value}}, Gone: []plan.Element{{Key: key, Value: old}},
		}}}}
	}
	there, back := change("0x102", "0x101"), change("0x101", "0x102")
	b.Run("two changes", func(b *testing.B) {
		for b.Loop() {
			if err := errors.Join(n.doNFT(there), n.doNFT(back)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			if err := n.loadTable(table); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			n.nft.last.reads = 0
			if _, err := n.observeNFT([]*plan.Table{table}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
