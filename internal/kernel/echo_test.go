package kernel_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// twoNodes are the hosts of n1 and n2 on one link, each with its plan, and an
// endpoint on n2. f runs on n1.
func twoNodes(t *testing.T, f func(n1, n2 *kernel.Kernel, peer netip.Addr)) {
	t.Helper()
	w := scene.New(t, 2)
	w.Endpoint(w.Service("web", nil, scene.Port(8080, 80, mesh.TCP)), "web.1", 2)
	snap := w.State.Snapshot()
	compiled := func(n int) *plan.Plan { return holdable(agent.Compile(mesh.Local{ID: scene.NodeID(n)}, snap)) }
	peer := snap.Node(scene.NodeID(2)).BlocksOf(mesh.IngressNetwork)[0].Gateway4()
	inHost(t, func() {
		n1 := newKernel(t)
		defer n1.Close()
		here, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		defer here.Close()
		inHost(t, func() {
			n2 := newKernel(t)
			defer n2.Close()
			ip(t, fmt.Sprintf(`link add eth0 type veth peer name eth0 netns /proc/%d/fd/%d
				addr add 192.0.2.12/24 dev eth0
				link set eth0 up`, os.Getpid(), here))
			pinWorkloads(t, n2, compiled(2))
			mustApply(t, n2, compiled(2))
			defer func() { mustApply(t, n2, &plan.Plan{}) }()
			onThreadOf(t, here, func() {
				ip(t, `addr add 192.0.2.11/24 dev eth0
					link set eth0 up`)
				mustApply(t, n1, compiled(1))
				defer func() { mustApply(t, n1, &plan.Plan{}) }()
				f(n1, n2, peer)
			})
		})
	})
}

// onThreadOf runs f in another namespace on the thread that is locked already.
func onThreadOf(t *testing.T, where netns.NsHandle, f func()) {
	t.Helper()
	back, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := netns.Set(where); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netns.Set(back); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

type answer struct {
	from     netip.Addr
	sequence uint16
}

// answers are the first that come, within a second.
func answers(t *testing.T, e kernel.Echoer) []answer {
	t.Helper()
	var got []answer
	for deadline := time.Now().Add(time.Second); len(got) == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		err := e.Receive(func(from netip.Addr, sequence uint16) { got = append(got, answer{from, sequence}) })
		if err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func wantAnswer(t *testing.T, e kernel.Echoer, to netip.Addr, sequence uint16) {
	t.Helper()
	if err := e.Send(to, sequence); err != nil {
		t.Fatal(err)
	}
	if got := answers(t, e); len(got) != 1 || got[0] != (answer{to, sequence}) {
		t.Errorf("sequence %d to %s: answers %v", sequence, to, got)
	}
}

// The question leaves ingress-sbox, passes the tunnel and every rule on both nodes,
// and the answer comes back the way of a reply.
func TestEchoThroughTheTunnel(t *testing.T) {
	twoNodes(t, func(n1, _ *kernel.Kernel, peer netip.Addr) {
		before := openFiles(t)
		e := n1.Echo()
		for sequence := range uint16(3) {
			wantAnswer(t, e, peer, 65534+sequence)
		}
		nobody := peer.Next()
		if err := e.Send(nobody, 1); err != nil {
			t.Error(err)
		}
		ip(t, "link set eth0 down")
		if err := e.Send(peer, 2); err != nil {
			t.Errorf("with the link down: %v, want silence", err)
		}
		if got := answers(t, e); len(got) > 0 {
			t.Errorf("with the link down: %v answered", got)
		}
		ip(t, "link set eth0 up")
		var got []answer
		for deadline := time.Now().Add(5 * time.Second); len(got) == 0 && time.Now().Before(deadline); {
			if err := e.Send(peer, 3); err != nil {
				t.Fatal(err)
			}
			got = answers(t, e)
		}
		if len(got) == 0 {
			t.Error("with the link up again: no answer")
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if after := openFiles(t); after != before {
			t.Errorf("%d files are open, %d before", after, before)
		}
	})
}

// A sandbox that is made anew is asked from at once; while it is away, that is said.
func TestEchoFollowsTheSandbox(t *testing.T) {
	twoNodes(t, func(n1, _ *kernel.Kernel, peer netip.Addr) {
		e := n1.Echo()
		defer e.Close()
		if err := e.Send(netip.MustParseAddr("fd00::1"), 1); err == nil {
			t.Error("an IPv6 address can be asked")
		}
		wantAnswer(t, e, peer, 1)
		path := n1.Path(plan.IngressSandbox)
		keep, err := netns.GetFromPath(path)
		if err != nil {
			t.Fatal(err)
		}
		defer keep.Close()
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := e.Send(peer, 2); err == nil {
			t.Error("without the sandbox a question could be asked")
		}
		if err := e.Receive(func(netip.Addr, uint16) { t.Error("without the sandbox there was an answer") }); err != nil {
			t.Error(err)
		}
		// Another namespace in its place, without an address yet.
		other, err := kernel.NewWorkload()
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := unix.Mount(other.Path(), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if err := e.Send(peer, 3); err == nil {
			t.Error("in an empty sandbox a question could be asked")
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", keep), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, e, peer, 4)
	})
}

// Two who ask from one sandbox are kept apart.
func TestEchoOfAnother(t *testing.T) {
	twoNodes(t, func(n1, _ *kernel.Kernel, peer netip.Addr) {
		e, other := n1.Echo(), n1.Echo()
		defer e.Close()
		defer other.Close()
		wantAnswer(t, other, peer, 9)
		wantAnswer(t, e, peer, 1)
		if got := answers(t, other); len(got) > 0 {
			t.Errorf("the answer to another one counts: %v", got)
		}
	})
}
