package kernel_test

import (
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// A process of the host and an endpoint cannot speak VXLAN to a peer with the
// host's address; the kernel's own tunnels can, and others' VNIs are left alone.
func TestForgedFrames(t *testing.T) {
	p := holdable(plans(t)["one endpoint local"])
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		w := pinWorkloads(t, k, p)[0]
		defer func() { mustApply(t, k, &plan.Plan{}) }()
		ip(t, `link add eth0 type veth peer name far
			addr add 192.0.2.11/24 dev eth0
			link set eth0 up
			link set far up
			neigh add 192.0.2.12 lladdr 02:00:00:00:00:12 dev eth0 nud permanent`)
		mustApply(t, k, p)
		ours := "\x08\x00\x00\x00\x10\x00\x00\x00" // VXLAN, VNI 2^20
		theirs := "\x08\x00\x00\x00\x00\x10\x00\x00"
		send := func(frame string) error {
			c, err := net.Dial("udp", "192.0.2.12:4789")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte(frame + strings.Repeat("x", 40)))
			return err
		}
		if err := send(ours); err == nil {
			t.Error("a process sent a frame of our overlay to a peer")
		}
		if err := send(theirs); err != nil {
			t.Errorf("another program's tunnel is none of our business: %v", err)
		}
		dropped := func() string {
			out, err := exec.Command("nft", "list", "chain", "inet", "sluice", "forged").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "sl-o*") && strings.Contains(line, "udp dport 4789") {
					return line
				}
			}
			return ""
		}
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
