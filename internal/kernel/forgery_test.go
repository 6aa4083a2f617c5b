package kernel_test

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// hostRule is the rule of a chain of ours in the host that holds a text, with its counter.
func hostRule(t *testing.T, chain, holding string) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "chain", "inet", "sluice", chain).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, holding) {
			return line
		}
	}
	t.Fatalf("chain %s has no rule with %s", chain, holding)
	return ""
}

// A peer's tunnels listen on each of its addresses, and may do on another port than ours: what an
// endpoint on a bridge sends there is dropped wherever it goes, and what comes for another
// address of ours than the nodes know too, though it comes from a node.
func TestForgedFramesToOtherAddresses(t *testing.T) {
	w := scene.New(t, 3)
	other := *w.State.Snapshot().Node(scene.NodeID(3))
	other.VXLANPort = 4790
	w.Write(other.ID, mesh.NodeRecord(&other))
	w.Endpoint(w.Service("web", []mesh.NetworkID{w.Bridge("blue", mesh.NetworkWish{})}), "web.1", 1)
	p := holdable(agent.Compile(mesh.Local{ID: scene.NodeID(1)}, w.State.Snapshot()))
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		workload := pinWorkloads(t, k, p)[0]
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		far := neighbour(t, "eth0", 2)
		ip(t, "addr add 192.0.2.11/24 dev eth0")
		ip(t, "addr add 192.0.2.111/24 dev eth0")
		mustApply(t, k, p)
		send := func(run func(script string) error, at string) {
			t.Helper()
			if err := run("exec 3>/dev/udp/" + at + "; printf '\\x08\\x00\\x00\\x00\\x10\\x00\\x00\\x00xxxxxxxx' >&3"); err != nil {
				t.Fatal(err)
			}
		}
		fromEndpoint := func(script string) error {
			_, err := workload.Run(t.Context(), []string{"bash", "-c", script}, nil)
			return err
		}
		for i, at := range []string{"192.0.2.112/4789", "192.0.2.112/4790", "192.0.2.12/4789"} {
			send(fromEndpoint, at)
			if line := hostRule(t, "forged", `iifname "sl-b*"`); !strings.Contains(line, fmt.Sprintf("packets %d ", i+1)) {
				t.Errorf("an endpoint's frame to %s was let out: %s", at, line)
			}
		}
		if out, err := far.Run(t.Context(), "ip", "addr", "add", "192.0.2.12/24", "dev", "eth0"); err != nil {
			t.Fatal(out, err)
		}
		fromPeer := func(script string) error {
			_, err := far.Run(t.Context(), "bash", "-c", script)
			return err
		}
		send(fromPeer, "192.0.2.11/4789")
		if line := hostRule(t, "tunnels", "!= 192.0.2.11 "); !strings.Contains(line, "packets 0 ") {
			t.Errorf("a peer's frame was dropped: %s", line)
		}
		send(fromPeer, "192.0.2.111/4789")
		if line := hostRule(t, "tunnels", "!= 192.0.2.11 "); !strings.Contains(line, "packets 1 ") {
			t.Errorf("a frame to another address was let in: %s", line)
		}
	})
}

// The beginnings of frames of ours (VNI 2^20) and of another program's.
const (
	ourFrame   = "\x08\x00\x00\x00\x10\x00\x00\x00"
	theirFrame = "\x08\x00\x00\x00\x00\x10\x00\x00"
)

// sendTunnelled sends one to a peer's tunnel port, as a process of the host.
func sendTunnelled(begin string) error {
	c, err := net.Dial("udp", "192.0.2.12:4789")
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(begin + strings.Repeat("x", 40)))
	return err
}

// towardsPeer gives the calling thread's namespace a link by which a peer is near.
func towardsPeer(t *testing.T) {
	t.Helper()
	ip(t, `link add eth0 type veth peer name far
		addr add 192.0.2.11/24 dev eth0
		link set eth0 up
		link set far up
		neigh add 192.0.2.12 lladdr 02:00:00:00:00:12 dev eth0 nud permanent`)
}

// Where a node's plan lacks the tunnel ports, or has other ones, a forged frame leaves: the
// set is what stops it.
func TestForgedFramesMissed(t *testing.T) {
	for name, elements := range map[string][]plan.Element{"no port": nil, "another port": {{Key: "4788"}}} {
		p := holdable(plans(t)["one endpoint local"])
		p.Host().Table("inet").Set("tunnel_ports").Elements = elements
		inHost(t, func() {
			k := newKernel(t)
			defer k.Close()
			pinWorkloads(t, k, p)
			defer func() { mustApply(t, k, &plan.Plan{}) }()
			towardsPeer(t)
			mustApply(t, k, p)
			if err := sendTunnelled(ourFrame); err != nil {
				t.Errorf("%s: nothing else stops the frame, and yet: %v", name, err)
			}
		})
	}
}

// A process of the host and an endpoint cannot speak VXLAN to a peer with the
// host's address; the kernel's own tunnels can, and others' VNIs are left alone.
func TestForgedFrames(t *testing.T) {
	p := holdable(plans(t)["one endpoint local"])
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		w := pinWorkloads(t, k, p)[0]
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		towardsPeer(t)
		mustApply(t, k, p)
		if err := sendTunnelled(ourFrame); err == nil {
			t.Error("a process sent a frame of our overlay to a peer")
		}
		if err := sendTunnelled(theirFrame); err != nil {
			t.Errorf("another program's tunnel is none of our business: %v", err)
		}
		dropped := func() string { return hostRule(t, "forged", `iifname "sl-o*"`) }
		if !strings.Contains(dropped(), "packets 0") {
			t.Fatalf("the forward rule should have seen nothing yet: %q", dropped())
		}
		script := "exec 3>/dev/udp/192.0.2.12/4789; printf '\\x08\\x00\\x00\\x00\\x10\\x00\\x00\\x00xxxxxxxx' >&3"
		if status, err := w.Run(t.Context(), []string{"bash", "-c", script}, nil); err != nil || status != 0 {
			t.Fatalf("the endpoint could not send: %d %v", status, err)
		}
		if !strings.Contains(dropped(), "packets 1") {
			t.Errorf("the endpoint's frame was not dropped in the host: %q", dropped())
		}
	})
}
