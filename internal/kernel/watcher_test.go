package kernel

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Events that were lost are as good as a change of anything, and what follows
// them is heard.
func TestWatcherLosesEvents(t *testing.T) {
	fd, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	links, err := netlink.NewHandleAt(fd, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ours"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "far"}
	if err := links.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := links.LinkSetAlias(veth, plan.LinkAlias); err != nil {
		t.Fatal(err)
	}
	w, err := newWatcher("s", plan.KindHost, fd, nsID{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	var heard []Drift
	hear := func() []Drift {
		heard = nil
		if err := w.hearRoute(make([]byte, receiveRoom), func(d Drift) { heard = append(heard, d) }, func(underlayEvent) {}); err != nil {
			t.Fatal(err)
		}
		return heard
	}
	if got := hear(); len(got) > 0 || !w.links[int32(veth.Attrs().Index)].ours {
		t.Fatalf("what was there before is heard as %v and known as %v", got, w.links)
	}
	if err := unix.SetsockoptInt(w.route, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	clear(w.links)
	for i := range 100 {
		addr := ipNet(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(i)}), 32))
		if err := links.AddrAdd(veth, &netlink.Addr{IPNet: addr}); err != nil {
			t.Fatal(err)
		}
	}
	if got := hear(); !slices.Contains(got, Drift{Sandbox: "s"}) {
		t.Fatalf("heard %v, and nothing that events were lost", got)
	}
	hear()
	if !w.links[int32(veth.Attrs().Index)].ours {
		t.Fatalf("the devices were not asked for again: %v", w.links)
	}
}

// Whatever comes in, reading it ends.
func FuzzWatcher(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWLINK), make([]byte, 40))
	f.Add(uint16(unix.RTM_NEWNETCONF), []byte{2, 0, 0, 0, 8, 0, 1, 0, 255, 255, 255, 255})
	f.Add(uint16(unix.RTM_NEWADDR), []byte{10, 64, 0, 0, 1, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(_ *testing.T, kind uint16, data []byte) {
		w := &watcher{kind: plan.KindNetwork, links: map[int32]seenLink{}}
		m := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
		w.about(m)
		nftWriter(m)
	})
}
