package feature

import (
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestMesh is what makes a kernel good for the mesh; in the VM all must be there.
func TestMesh(t *testing.T) {
	Need(t, append(Mesh(), WireGuard, Netem)...)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() == "vxlan" || l.Type() == "wireguard" {
			t.Errorf("the probe left %s here", l.Attrs().Name)
		}
	}
}

func TestMissing(t *testing.T) {
	if got := Missing("flying", Namespaces); !slices.Equal(got, []Feature{"flying"}) {
		t.Errorf("missing %q, want flying alone", got)
	}
	if got := List([]Feature{IPVS, VXLAN}); got != "IPVS, VXLAN" {
		t.Errorf("got %q", got)
	}
}

// TestMissingStaysOutside sees that the probe's namespace is not this thread's.
func TestMissingStaysOutside(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	Missing(Namespaces)
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
		t.Errorf("namespace %s, was %s, %v", after, before, err)
	}
}
