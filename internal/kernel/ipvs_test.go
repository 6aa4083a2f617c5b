package kernel

import (
	"cmp"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/plan"
)

func ipvsNamespace(t *testing.T) *namespace {
	t.Helper()
	feature.Need(t, feature.IPVS)
	n := testNamespace(t)
	lo, err := n.link.LinkByName("lo")
	if err == nil {
		err = n.link.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustIPVS(t *testing.T, n *namespace, verb Verb, objects ...any) {
	t.Helper()
	for _, o := range objects {
		op := Op{Verb: verb, Sandbox: "s"}
		switch o := o.(type) {
		case plan.VirtualServer:
			op.Object = o
		case plan.Backend:
			op.Object = o
		case plan.Timeouts:
			op.Object = o
		}
		if err := n.doIPVS(op); err != nil {
			t.Fatalf("%s: %v", op, err)
		}
	}
}

func wantIPVS(t *testing.T, n *namespace, virtual []plan.VirtualServer, backends []plan.Backend) {
	t.Helper()
	gotVirtual, gotBackends, _, err := n.observeIPVS()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(gotVirtual, func(a, b plan.VirtualServer) int {
		return cmp.Or(cmp.Compare(a.Mark, b.Mark), cmp.Compare(a.Dialled.Proto, b.Dialled.Proto), cmp.Compare(a.Family, b.Family))
	})
	slices.SortFunc(gotBackends, func(a, b plan.Backend) int {
		return cmp.Or(cmp.Compare(a.Mark, b.Mark), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	same := gocmp.Options{
		gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	}
	if diff := gocmp.Diff(virtual, gotVirtual, same); diff != "" {
		t.Error("virtual servers:", diff)
	}
	if diff := gocmp.Diff(backends, gotBackends, same); diff != "" {
		t.Error("backends:", diff)
	}
}

func backend(mark uint32, addr string, weight int) plan.Backend {
	a := netip.MustParseAddrPort(addr)
	return plan.Backend{Mark: mark, Addr: a.Addr(), Port: a.Port(), Weight: weight}
}

func TestIPVSRoundTrip(t *testing.T) {
	n := ipvsNamespace(t)
	wantIPVS(t, n, nil, nil)
	four := plan.VirtualServer{Mark: 0x64ac5601, Family: plan.IPv4, Scheduler: "rr"}
	six := plan.VirtualServer{Mark: 0x64ac5601, Family: plan.IPv6, Scheduler: "rr"}
	other := plan.VirtualServer{Mark: 0x70000000, Family: plan.IPv4, Scheduler: "wlc"}
	mustIPVS(t, n, Add, four, six, other)
	wantIPVS(t, n, []plan.VirtualServer{four, six, other}, nil)

	b4, b4b, b6 := backend(four.Mark, "198.18.6.86:80", 1), backend(four.Mark, "198.18.6.87:80", 2), backend(four.Mark, "[fd12::17]:80", 1)
	mustIPVS(t, n, Add, b4, b4b, b6, b4) // the first twice: an update
	wantIPVS(t, n, []plan.VirtualServer{four, six, other}, []plan.Backend{b4, b4b, b6})

	b4.Weight, b6.Weight = 0, 65000 // draining; and much
	mustIPVS(t, n, Replace, b4, b6)
	four.Scheduler = "lc"
	mustIPVS(t, n, Replace, four)
	mustIPVS(t, n, Add, six) // there already
	wantIPVS(t, n, []plan.VirtualServer{four, six, other}, []plan.Backend{b4, b4b, b6})

	mustIPVS(t, n, Delete, b4, b4)
	wantIPVS(t, n, []plan.VirtualServer{four, six, other}, []plan.Backend{b4b, b6})
	mustIPVS(t, n, Delete, six, six, b6)
	wantIPVS(t, n, []plan.VirtualServer{four, other}, []plan.Backend{b4b})
	mustIPVS(t, n, Replace, b4) // gone meanwhile: comes back
	wantIPVS(t, n, []plan.VirtualServer{four, other}, []plan.Backend{b4, b4b})
}

// Every scheduler that a plan may name is loaded by the kernel itself, also for
// a namespace that is not the first.
func TestIPVSSchedulers(t *testing.T) {
	n := ipvsNamespace(t)
	for i, scheduler := range []string{"rr", "wrr", "lc", "wlc", "sh", "mh"} {
		mustIPVS(t, n, Add, plan.VirtualServer{Mark: uint32(i + 1), Family: plan.IPv4, Scheduler: scheduler})
	}
	err := n.doIPVS(Op{Add, "s", plan.VirtualServer{Mark: 99, Family: plan.IPv4, Scheduler: "nosuch"}})
	wantMissing(t, err)
}

func wantMissing(t *testing.T, err error) {
	t.Helper()
	var no *Refusal
	if !errors.As(err, &no) || no.Reason != plan.FeatureMissing {
		t.Errorf("got %v, want a refusal for a missing feature", err)
	}
}

// Timeouts belong to the namespace, and 0 leaves one as it is.
func TestIPVSTimeouts(t *testing.T) {
	a, b := ipvsNamespace(t), ipvsNamespace(t)
	_, _, before, err := b.observeIPVS()
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Timeouts{TCP: 120 * time.Hour, TCPFin: 2 * time.Minute, UDP: 3 * time.Minute}
	mustIPVS(t, a, Replace, want)
	mustIPVS(t, a, Delete, want)
	mustIPVS(t, a, Replace, plan.Timeouts{UDP: time.Minute})
	want.UDP = time.Minute
	if _, _, got, err := a.observeIPVS(); err != nil || got != want {
		t.Errorf("timeouts are %v, %v; want %v", got, err, want)
	}
	if _, _, got, err := b.observeIPVS(); err != nil || got != before || got == want {
		t.Errorf("another namespace's timeouts are %v, %v; want %v", got, err, before)
	}
}

// What is keyed by what is dialled comes back as it was put in, beside what is keyed by
// mark, and elsewhere than on the uplink it is not ours.
func TestIPVSDialled(t *testing.T) {
	n := ipvsNamespace(t)
	var virtual []plan.VirtualServer
	var backends []plan.Backend
	for _, proto := range []string{"tcp", "udp"} {
		for at, to := range map[string]string{"169.254.77.2:8080": "198.18.6.86:80", "[fd77::2]:8080": "[fd12::17]:80"} {
			b := backend(0, to, 1)
			b.Dialled = plan.Dialled{Proto: proto, At: netip.MustParseAddrPort(at)}
			v := plan.VirtualServer{Dialled: b.Dialled, Family: plan.FamilyOf(b.Addr), Scheduler: "rr", Persistent: time.Minute}
			mustIPVS(t, n, Add, v, b)
			virtual, backends = append(virtual, v), append(backends, b)
		}
	}
	other := plan.VirtualServer{Family: plan.IPv4, Scheduler: "rr", Dialled: plan.Dialled{Proto: "tcp", At: netip.MustParseAddrPort("192.0.2.1:80")}}
	mustIPVS(t, n, Add, other)
	key := func(d plan.Dialled) string { return d.Proto + d.At.String() }
	gotVirtual, gotBackends, _, err := n.observeIPVS()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(virtual, func(a, b plan.VirtualServer) int { return cmp.Compare(key(a.Dialled), key(b.Dialled)) })
	slices.SortFunc(gotVirtual, func(a, b plan.VirtualServer) int { return cmp.Compare(key(a.Dialled), key(b.Dialled)) })
	slices.SortFunc(backends, func(a, b plan.Backend) int { return cmp.Compare(key(a.Dialled), key(b.Dialled)) })
	slices.SortFunc(gotBackends, func(a, b plan.Backend) int { return cmp.Compare(key(a.Dialled), key(b.Dialled)) })
	if !slices.Equal(gotVirtual, virtual) || !slices.Equal(gotBackends, backends) {
		t.Errorf("put in:\n%v\n%v\nread back:\n%v\n%v", virtual, backends, gotVirtual, gotBackends)
	}
	for i := range virtual {
		mustIPVS(t, n, Delete, backends[i], virtual[i])
	}
	wantIPVS(t, n, nil, nil)
}

// What somebody else put in is seen, or not ours.
func TestIPVSByOthers(t *testing.T) {
	n := ipvsNamespace(t)
	s := plan.VirtualServer{Mark: 7, Family: plan.IPv4, Scheduler: "rr"}
	b := backend(7, "198.18.6.86:80", 1)
	mustIPVS(t, n, Add, s, b)
	err := n.do(func() error {
		for _, args := range [][]string{
			{"-e", "-f", "7", "-r", "198.18.6.86:80", "-g", "-w", "1"}, // direct routing
			{"-A", "-t", "192.0.2.1:80", "-s", "rr"},
		} {
			if out, err := exec.Command("ipvsadm", args...).CombinedOutput(); err != nil {
				return errors.New(string(out))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Weight = foreignWeight
	wantIPVS(t, n, []plan.VirtualServer{s}, []plan.Backend{b})
	b.Weight = 1
	mustIPVS(t, n, Replace, b)
	wantIPVS(t, n, []plan.VirtualServer{s}, []plan.Backend{b})
}

func TestIPVSRefused(t *testing.T) {
	n := ipvsNamespace(t)
	mustIPVS(t, n, Add, plan.VirtualServer{Mark: 7, Family: plan.IPv4, Scheduler: "rr"})
	for name, op := range map[string]Op{
		"no such service": {Add, "s", backend(8, "198.18.6.86:80", 1)},
		"other family":    {Add, "s", backend(7, "[fd12::1]:80", 1)},
		"negative weight": {Add, "s", backend(7, "198.18.6.86:80", -1)},
		"another object":  {Add, "s", plan.Addr{}},
	} {
		if err := n.doIPVS(op); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := n.doIPVS(Op{Add, "s", backend(8, "198.18.6.86:80", 1)}); !errors.Is(err, unix.ESRCH) {
		t.Errorf("error does not carry the kernel's: %v", err)
	}
}

// A kernel without IP_VS is told from one with it, also where modprobe is not to
// be found, and nothing is reported as done.
func TestNoIPVS(t *testing.T) {
	if HasIPVS() {
		return // the tests above are the other half
	}
	n := testNamespace(t)
	for _, o := range []Op{
		{Add, "s", plan.VirtualServer{Mark: 7, Family: plan.IPv4, Scheduler: "rr"}},
		{Replace, "s", backend(7, "198.18.6.86:80", 1)},
		{Replace, "s", plan.Timeouts{TCP: time.Second}},
	} {
		wantMissing(t, n.doIPVS(o))
	}
	if err := n.doIPVS(Op{Delete, "s", backend(7, "198.18.6.86:80", 1)}); err != nil {
		t.Error("deleting where nothing can be:", err)
	}
	wantIPVS(t, n, nil, nil)
}
