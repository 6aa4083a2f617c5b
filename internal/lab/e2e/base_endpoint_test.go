package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// testSettings attaches an endpoint that asks for everything that it can ask for.
func testSettings(t *testing.T, b *base) {
	t.Helper()
	i := b.network(t, "chosen", "--mtu", "1400")
	b.sluice(t, "service", "create", "chosen", "--network", "chosen")
	four, six := subnet(i, cluster.IPv4).Addr().As4(), fmt.Sprintf("fd20:%d::77", i)
	four[3] = 77
	asked := fmt.Sprintf("chosen,ip=%s,ip=%s,mac=02:00:00:00:00:77,interface=blue0,sysctl=net.ipv4.conf.IFNAME.log_martians=1,sysctl=net.ipv6.conf.IFNAME.hop_limit=33", netip.AddrFrom4(four), six)
	r := b.attach(t, b.node, "chosen", "chosen", "--network", asked)
	b.rest(t)
	shown := said(t, r.Space, "ip", "address", "show", "dev", "blue0")
	for _, want := range []string{netip.AddrFrom4(four).String() + "/", six + "/", "02:00:00:00:00:77", "mtu 1400"} {
		if !strings.Contains(shown, want) {
			t.Errorf("blue0 has no %q:\n%s", want, shown)
		}
	}
	for file, want := range map[string]string{"ipv4/conf/blue0/log_martians": "1", "ipv6/conf/blue0/hop_limit": "33", "ipv6/conf/blue0/accept_ra": "0"} {
		if got := said(t, r.Space, "cat", "/proc/sys/net/"+file); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	for _, bad := range []string{"chosen,interface=lo", "chosen,mac=01:00:00:00:00:01", "chosen,ip=10.9.9.9", "chosen,sysctl=net.ipv4.conf.IFNAME.../../x=1", "nowhere,interface=x"} {
		s, err := b.Space(fmt.Sprintf("bad-%d", len(b.servers)+len(bad)+int(bad[len(bad)-1])))
		if err != nil {
			t.Fatal(err)
		}
		made, err := b.node.Try(t.Context(), "endpoint", "attach", "--service", "chosen", "--name", "bad", "--netns", s.Path, "--network", bad)
		if err != nil || made.Code == 0 {
			t.Errorf("attach --network %s: exit %d, %v, want it refused", bad, made.Code, err)
		}
		if left := said(t, s, "ip", "-o", "link"); strings.Count(left, "\n") != 0 {
			t.Errorf("attach --network %s was refused and left\n%s", bad, left)
		}
	}
}

// testGatewayChoice joins networks: the default route is on the one with the greatest priority,
// never on an internal one, and goes back when it is left.
func testGatewayChoice(t *testing.T, b *base) {
	t.Helper()
	i := b.network(t, "second-way")
	b.sluice(t, "network", "create", "closed", "--driver", "bridge", "--internal")
	b.sluice(t, "service", "create", "chooser", "--network", "nat")
	r := b.attach(t, b.node, "chooser", "nat")
	way := func(want netip.Addr, flag, after string) {
		t.Helper()
		until(t, "the default route is by "+want.String()+" after "+after, func() error {
			if got := said(t, r.Space, "ip", flag, "route", "show", "default"); !strings.Contains(got, "via "+want.String()+" ") {
				return fmt.Errorf("it is %q", got)
			}
			return nil
		})
	}
	both := func(i int, after string) {
		t.Helper()
		way(gateway(i, cluster.IPv4), "-4", after)
		way(gateway(i, cluster.IPv6), "-6", after)
	}
	both(0, "attach")
	b.sluice(t, "endpoint", "connect", r.name, "second-way", "--gw-priority", "10")
	both(i, "connect with a priority")
	b.sluice(t, "endpoint", "connect", r.name, "closed", "--gw-priority", "20")
	both(i, "connect to an internal network")
	b.sluice(t, "endpoint", "disconnect", r.name, "second-way")
	both(0, "disconnect")
	refused, err := b.node.Try(t.Context(), "endpoint", "disconnect", r.name, "nat")
	if err != nil || refused.Code == 0 {
		t.Errorf("disconnect from a network of the service: exit %d, %v, want it refused", refused.Code, err)
	}
}

// testGatewayMesh gives a bridge the greatest priority on an endpoint that the mesh leads to: who is
// led there is answered all the same, and sees no other address than the one that it asked.
func testGatewayMesh(t *testing.T, b *base) {
	t.Helper()
	b.network(t, "beside-mesh")
	b.sluice(t, "network", "create", "meshed")
	flags := []string{"service", "create", "meshed", "--network", "meshed"}
	for _, port := range []string{"8810:80", "8811:84"} {
		flags = append(flags, "--publish", port+"/tcp", "--publish", port+"/udp")
	}
	b.sluice(t, flags...)
	r := b.attach(t, b.node, "meshed", "meshed", "--network", "beside-mesh,gw-priority=10")
	b.rest(t)
	ask := func(after string) {
		t.Helper()
		for _, f := range bothFamilies() {
			for _, proto := range protocols() {
				d := dial{from: probe.Client{Place: b.Client}, proto: proto, to: netip.AddrPortFrom(b.node.Addr(f), 8810), who: r, port: probe.TargetPort, mark: 8811}
				if got, want := b.dial(d), "sees "+b.Client.Addr(f).String(); got != want {
					t.Errorf("after %s, %s %s: %s, want: %s", after, proto, d.to, got, want)
				}
			}
		}
	}
	ask("attach")
	b.sluice(t, "endpoint", "disconnect", r.name, "beside-mesh")
	b.sluice(t, "endpoint", "connect", r.name, "beside-mesh", "--gw-priority", "10")
	b.rest(t)
	ask("connect")
	for _, a := range b.inspect(t, r.name).GetAttachments() {
		if a.GetDefaultRoute() != (a.GetNetwork() == "ingress") {
			t.Errorf("the default route is shown on %s: %t", a.GetNetwork(), a.GetDefaultRoute())
		}
	}
	b.sluice(t, "service", "rm", "meshed") // its ports are then everybody's again
}

// testHotConnect joins and leaves a network under an open connection.
func testHotConnect(t *testing.T, b *base) {
	t.Helper()
	b.sluice(t, "service", "create", "mover", "--network", "nat")
	r := b.attach(t, b.node, "mover", "nat")
	other := b.of("other")
	b.rest(t)
	for _, f := range bothFamilies() {
		flow, err := probe.Client{Place: b.of("nat-same"), Wait: patience}.Open("tcp", netip.AddrPortFrom(r.addr(f), probe.TargetPort))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			b.sluice(t, "endpoint", "connect", r.name, "other")
			found, err := addresses(b.inspect(t, r.name))
			if err != nil {
				t.Fatal(err)
			}
			r.addrs = found
			to := netip.AddrPortFrom(r.on("other", f), probe.TargetPort)
			a, err := probe.Client{Place: other, Wait: patience}.Get(to)
			if err != nil || a.Name != r.name || a.Source.Addr() != other.addr(f) {
				t.Errorf("connected, %s at %s: %+v, %v", r.name, to, a, err)
			}
			if _, err := flow.Ask(); err != nil {
				t.Fatalf("an open connection, after connect: %v", err)
			}
			b.sluice(t, "endpoint", "disconnect", r.name, "other")
			if a, err := (probe.Client{Place: other, Wait: 300 * time.Millisecond}).Get(to); err == nil {
				t.Errorf("disconnected, %s at %s still answers: %+v", r.name, to, a)
			}
			if _, err := flow.Ask(); err != nil {
				t.Fatalf("an open connection, after disconnect: %v", err)
			}
		}
		flow.Close()
	}
}

// testAnnounced gives an address to a second endpoint with another hardware address: who has
// spoken to the first reaches the second at once.
func testAnnounced(t *testing.T, b *base) {
	t.Helper()
	i := b.network(t, "announced")
	b.sluice(t, "service", "create", "announced", "--network", "announced")
	b.sluice(t, "service", "create", "listener", "--network", "announced")
	listener := b.attach(t, b.node, "listener", "announced")
	four := subnet(i, cluster.IPv4).Addr().As4()
	four[3] = 50
	six := netip.MustParseAddr(fmt.Sprintf("fd20:%d::50", i))
	asked := fmt.Sprintf("announced,ip=%s,ip=%s,mac=02:00:00:00:00:", netip.AddrFrom4(four), six)
	for round, mac := range []string{"51", "52", "53"} {
		r := b.attach(t, b.node, "announced", "announced", "--network", asked+mac)
		for _, to := range []netip.Addr{netip.AddrFrom4(four), six} {
			if round > 0 {
				hears(t, listener, to, "02:00:00:00:00:"+mac)
			}
			a, err := probe.Client{Place: listener, Wait: time.Second}.Get(netip.AddrPortFrom(to, probe.TargetPort))
			if err != nil || a.Name != r.name {
				t.Errorf("%s: %+v, %v, want %s", to, a, err, r.name)
			}
		}
		b.sluice(t, "endpoint", "detach", r.name)
	}
}

// hears wants that who has spoken to an address soon knows its hardware address: it is announced for a
// second, and whoever was not told finds out after five (RFC 4861, DELAY_FIRST_PROBE_TIME).
func hears(t *testing.T, listener *resident, to netip.Addr, mac string) {
	t.Helper()
	var known string
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if known = said(t, listener.Space, "ip", "neigh", "show", to.String()); strings.Contains(known, mac) {
			return
		}
	}
	t.Errorf("who has spoken to %s knows it as %q, want %s", to, known, mac)
}

// testAdvertisement has an endpoint advertise itself as an IPv6 router: neither the host nor
// its neighbours listen.
func testAdvertisement(t *testing.T, b *base) {
	t.Helper()
	rogue, same := b.of("nat-same"), b.of("nat-target")
	before := said(t, b.node.Space, "ip", "-6", "route") + said(t, same.Space, "ip", "-6", "route")
	err := rogue.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Flags&net.FlagLoopback != 0 {
				continue
			}
			all := &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(l.Index)}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
				return err
			}
			if err := unix.Sendto(fd, advertisement(), 0, all); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := marker(rogue, netip.AddrPortFrom(same.addr(cluster.IPv6), markerTarget), same); err != nil {
		t.Fatal(err)
	}
	if after := said(t, b.node.Space, "ip", "-6", "route") + said(t, same.Space, "ip", "-6", "route"); after != before {
		t.Errorf("routes were\n%s\nand are\n%s", before, after)
	}
}

// advertisement is a router's of RFC 4861 with one prefix for addresses; the kernel fills the
// checksum in.
func advertisement() []byte {
	b := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(b, 3, 4, 64, 0xc0, 0, 0x01, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0)
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	return append(b, prefix[:]...)
}
