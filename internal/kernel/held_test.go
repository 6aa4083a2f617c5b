package kernel_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// at is a port on one address, or on all where addr is "".
func at(addr, proto string, number uint16) kernel.Port {
	p := kernel.Port{Proto: proto, Number: number}
	if addr != "" {
		p.Addr = netip.MustParseAddr(addr)
	}
	return p
}

// itself is how a port is told that this program has.
func itself() string { return fmt.Sprintf("kernel.test (pid %d)", os.Getpid()) }

// holder is who has a port; "" where nobody does.
func holder(t *testing.T, k *kernel.Kernel, p kernel.Port) string {
	t.Helper()
	held, err := k.Held([]kernel.Port{at("", "tcp", 9), p, at("", "udp", 9)})
	switch {
	case err != nil:
		t.Fatal(err)
	case len(held) == 0:
		return ""
	case len(held) > 1 || held[0].Port != p:
		t.Fatalf("asked for %v, held are %v", p, held)
	}
	return held[0].By
}

// listen opens a socket in the calling thread's namespace until the test ends.
func listen(t *testing.T, network, addr string, control func(fd int) error) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if control != nil {
			_ = c.Control(func(fd uintptr) { err = control(int(fd)) })
		}
		return err
	}}
	var socket interface{ Close() error }
	var err error
	if strings.HasPrefix(network, "tcp") {
		socket, err = config.Listen(context.Background(), network, addr)
	} else {
		socket, err = config.ListenPacket(context.Background(), network, addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
}

// Which sockets have which published ports, by address, family and protocol.
func TestHeldBySockets(t *testing.T) {
	dual := func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) }
	for _, c := range []struct {
		network, addr   string
		control         func(int) error
		held, free      []string // addresses of publications; "" is all
		proto, notProto string
	}{
		{"tcp4", "127.0.0.1:8080", nil, []string{"", "127.0.0.1"}, []string{"192.0.2.11", "::1", "2001:db8::11"}, "tcp", "udp"},
		{"tcp4", "192.0.2.11:8080", nil, []string{"", "192.0.2.11"}, []string{"127.0.0.1", "192.0.2.12"}, "tcp", "udp"},
		{"tcp4", "0.0.0.0:8080", nil, []string{"", "192.0.2.11", "192.0.2.12"}, []string{"2001:db8::11"}, "tcp", "udp"},
		{"tcp6", "[::1]:8080", nil, []string{"", "::1"}, []string{"2001:db8::11", "127.0.0.1"}, "tcp", "udp"},
		{"tcp6", "[2001:db8::11]:8080", nil, []string{"", "2001:db8::11"}, []string{"::1", "192.0.2.11"}, "tcp", "udp"},
		{"tcp6", "[::]:8080", nil, []string{"", "2001:db8::11"}, []string{"192.0.2.11"}, "tcp", "udp"}, // IPV6_V6ONLY by Go
		{"tcp", "[::]:8080", dual, []string{"", "2001:db8::11", "192.0.2.11"}, nil, "tcp", "udp"},
		{"udp4", "127.0.0.1:8080", nil, []string{"", "127.0.0.1"}, []string{"192.0.2.11", "::1"}, "udp", "tcp"},
		{"udp4", "0.0.0.0:8080", nil, []string{"", "192.0.2.11"}, []string{"2001:db8::11"}, "udp", "tcp"},
		{"udp6", "[::]:8080", nil, []string{"", "::1"}, []string{"192.0.2.11"}, "udp", "tcp"},
		{"udp", "[::]:8080", dual, []string{"", "::1", "192.0.2.11"}, nil, "udp", "tcp"},
	} {
		t.Run(c.network+" "+c.addr, func(t *testing.T) {
			inHost(t, func() {
				k := newKernel(t)
				defer k.Close()
				addresses(t)
				listen(t, c.network, c.addr, c.control)
				for _, addr := range c.held {
					if by := holder(t, k, at(addr, c.proto, 8080)); by != itself() {
						t.Errorf("published on %q: held by %q, want %q", addr, by, itself())
					}
				}
				for _, addr := range c.free {
					if by := holder(t, k, at(addr, c.proto, 8080)); by != "" {
						t.Errorf("published on %q: held by %q, want nobody", addr, by)
					}
				}
				for _, p := range []kernel.Port{at("", c.notProto, 8080), at("", c.proto, 8081), at("", "sctp", 8080)} {
					if by := holder(t, k, p); by != "" {
						t.Errorf("%v: held by %q, want nobody", p, by)
					}
				}
			})
		})
	}
}

// addresses gives the host what the listeners are on.
func addresses(t *testing.T) {
	t.Helper()
	ip(t, `link set lo up
		addr add 192.0.2.11/32 dev lo
		addr add 2001:db8::11/128 dev lo nodad`)
}

// A connection is nobody's to answer on, whatever its own port: a client's, TCP or UDP.
func TestClientsHoldNothing(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		addresses(t)
		listen(t, "tcp4", "127.0.0.1:7000", nil)
		for _, network := range []string{"tcp4", "udp4"} {
			var local net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
			if network == "udp4" {
				local = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
			}
			conn, err := (&net.Dialer{LocalAddr: local}).Dial(network, "127.0.0.1:7000")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if by := holder(t, k, at("", network[:3], 8080)); by != "" {
				t.Errorf("a %s client holds its port as %q", network, by)
			}
		}
	})
}

// keeper is a process of an odd name that listens on addr, or rather has what does.
func keeper(t *testing.T, addr string) *exec.Cmd {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(t.TempDir(), "odd \x1b[2J")
	if err := os.Symlink(sleep, odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(odd, "60")
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // maybe waited for already
	})
	return cmd
}

// Another process is named; a socket that is in no process's files holds a port all the
// same. Who holds a port goes, and the port is free.
func TestHeldByProcess(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		addresses(t)
		cmd := keeper(t, "127.0.0.1:8080")
		want := fmt.Sprintf("odd ?[2J (pid %d)", cmd.Process.Pid)
		for range 2 { // the second look asks the known process
			if by := holder(t, k, at("", "tcp", 8080)); by != want {
				t.Errorf("held by %q, want %q", by, want)
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if by := holder(t, k, at("", "tcp", 8080)); by != "" {
			t.Errorf("held by %q when the process has ended", by)
		}
		// A socket of the kernel's own is in no process's files.
		ip(t, `link add vx0 type vxlan id 5 dstport 8080 local 192.0.2.11
			link set vx0 up`)
		if by := holder(t, k, at("", "udp", 8080)); by != "an unknown process" {
			t.Errorf("the port of a tunnel is held by %q", by)
		}
	})
}

// NAT rules of other programs take a port before ours do, or instead of them.
func TestHeldByRules(t *testing.T) {
	const named = "a rule in table ip x chain c"
	for _, c := range []struct {
		rule       string // in a NAT chain c of table ip x; or a whole command
		held, free []kernel.Port
		by         string
	}{
		{"tcp dport 8080 dnat to 1.2.3.4:80", []kernel.Port{at("", "tcp", 8080), at("192.0.2.11", "tcp", 8080)}, []kernel.Port{at("", "udp", 8080), at("", "tcp", 8081), at("2001:db8::1", "tcp", 8080)}, named},
		{"udp dport 8080 redirect to :53", []kernel.Port{at("", "udp", 8080)}, []kernel.Port{at("", "tcp", 8080)}, named},
		{"meta l4proto { tcp, udp } th dport 8080 dnat to 1.2.3.4:80", []kernel.Port{at("", "udp", 8080), at("", "tcp", 8080)}, []kernel.Port{at("", "udp", 8081)}, named},
		{"ip daddr 192.0.2.11 tcp dport 8080 dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 8080), at("192.0.2.11", "tcp", 8080)}, []kernel.Port{at("192.0.2.12", "tcp", 8080)}, named},
		{"ip daddr 192.0.2.0/25 tcp dport 8080 dnat to 1.2.3.4", []kernel.Port{at("192.0.2.12", "tcp", 8080)}, nil, named},
		{"tcp dport 8000-8010 dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 8000), at("", "tcp", 8010)}, []kernel.Port{at("", "tcp", 7999), at("", "tcp", 8011)}, named},
		{"tcp dport { 80, 8080 } dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 80), at("", "tcp", 8080)}, []kernel.Port{at("", "tcp", 81), at("", "udp", 80)}, named},
		{"tcp dport { 80, 8000-8010 } dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 80), at("", "tcp", 8010)}, []kernel.Port{at("", "tcp", 81), at("", "tcp", 8011)}, named},
		{"meta l4proto . th dport { tcp . 70, udp . 71 } dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 70), at("", "udp", 71)}, []kernel.Port{at("", "tcp", 71), at("", "udp", 70)}, named},
		{"ip daddr . tcp dport { 192.0.2.11 . 70, 192.0.2.11 . 72-75 } dnat to 1.2.3.4", []kernel.Port{at("", "tcp", 70), at("", "tcp", 75)}, []kernel.Port{at("", "tcp", 71)}, named},
		{"dnat to tcp dport map { 8080 : 1.2.3.4, 8081 : 1.2.3.5 }", []kernel.Port{at("", "tcp", 8081)}, []kernel.Port{at("", "tcp", 8082)}, named},
		{"tcp dport 8080 accept", nil, []kernel.Port{at("", "tcp", 8080)}, ""},
		{"tcp sport 8080 dnat to 1.2.3.4", nil, []kernel.Port{at("", "tcp", 8080)}, ""},
		{"tcp dport != 8080 accept", nil, []kernel.Port{at("", "tcp", 8080)}, ""},
		{
			"iptables-nft -t nat -N DOCKER; iptables-nft -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
			[]kernel.Port{at("", "tcp", 8080)},
			[]kernel.Port{at("", "udp", 8080), at("::1", "tcp", 8080)},
			"Docker's rule in table ip nat chain DOCKER",
		},
		{
			"iptables-nft -t nat -A PREROUTING -d 192.0.2.11/32 -p udp -m multiport --dports 53,8080:8090 -j REDIRECT --to-ports 5353",
			[]kernel.Port{at("", "udp", 53), at("192.0.2.11", "udp", 8090)},
			[]kernel.Port{at("", "tcp", 53), at("192.0.2.12", "udp", 53), at("", "udp", 8091)},
			"a rule in table ip nat chain PREROUTING",
		},
		{
			"ip6tables-nft -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination [fd00::1]:80",
			[]kernel.Port{at("", "tcp", 8080), at("::1", "tcp", 8080)},
			[]kernel.Port{at("127.0.0.1", "tcp", 8080)},
			"a rule in table ip6 nat chain PREROUTING",
		},
		{
			"nft add table inet docker-bridges; nft add chain inet docker-bridges nat; nft add rule inet docker-bridges nat tcp dport 8080 dnat ip to 1.2.3.4:80",
			[]kernel.Port{at("", "tcp", 8080)},
			nil, "Docker's rule in table inet docker-bridges chain nat",
		},
		{
			"iptables-legacy -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 1.2.3.4:80; iptables-legacy -t nat -A PREROUTING -p tcp ! --dport 9 -j REDIRECT",
			[]kernel.Port{at("", "tcp", 8080)},
			[]kernel.Port{at("", "udp", 8080), at("::1", "tcp", 8080)},
			"a rule in table ip nat chain PREROUTING of iptables-legacy",
		},
	} {
		t.Run(c.rule, func(t *testing.T) {
			inHost(t, func() {
				k := newKernel(t)
				defer k.Close()
				command := c.rule
				if first, _, _ := strings.Cut(command, " "); !strings.Contains(first, "tables-") && first != "nft" {
					command = "nft 'table ip x { chain c { type nat hook prerouting priority -100; " + c.rule + "; }; }'"
				}
				shell(t, command)
				for _, p := range c.held {
					if by := holder(t, k, p); by != c.by {
						t.Errorf("%v: held by %q, want %q", p, by, c.by)
					}
				}
				for _, p := range c.free {
					if by := holder(t, k, p); by != "" {
						t.Errorf("%v: held by %q, want nobody", p, by)
					}
				}
			})
		})
	}
}

// series are so many ports from the first on.
func series(first kernel.Port, count int) []kernel.Port {
	ports := make([]kernel.Port, count)
	for i := range ports {
		ports[i] = first
		ports[i].Number += uint16(i)
	}
	return ports
}

// What a plan has captured is read back from the kernel, and our own rules hold nothing.
func TestCaptured(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		if ports, err := k.Captured(); err != nil || len(ports) > 0 {
			t.Errorf("captured before anything is: %v, %v", ports, err)
		}
		for name, want := range map[string][]kernel.Port{
			"two services":             {at("", "tcp", 8080), at("", "udp", 5353), at("", "udp", 8080)},
			"published on one address": {at("192.0.2.11", "tcp", 8080), at("2001:db8::1", "tcp", 8080)},
			"no service":               nil,
			"hosted": {
				at("", "tcp", 8080), at("", "tcp", 8083), at("127.0.0.1", "tcp", 8085),
				at("192.0.2.11", "udp", 8081), at("192.0.2.11", "udp", 8084), at("2001:db8::1", "sctp", 8082),
			},
			"hosted ranges": append(series(at("", "udp", 8000), 1000), series(at("2001:db8::1", "tcp", 9000), 11)...),
		} {
			p := plan.Plan{Sandboxes: []*plan.Sandbox{{Name: plan.HostSandbox, Kind: plan.KindHost, Tables: plans(t)[name].Host().Tables}}}
			mustApply(t, k, &p)
			got, err := k.Captured()
			slices.SortFunc(got, func(a, b kernel.Port) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			slices.SortFunc(want, func(a, b kernel.Port) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			got = slices.Compact(got) // a port of a node's own is in the sets of both families
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: captured %v, %v, want %v", name, got, err, want)
			}
			if held, err := k.Held(want); err != nil || len(held) > 0 {
				t.Errorf("%s: held by ourselves: %v, %v", name, held, err)
			}
		}
		mustApply(t, k, &plan.Plan{})
	})
}

// A look at a machine with many processes and sockets stays short.
func TestHeldIsQuick(t *testing.T) {
	inHost(t, func() {
		k := newKernel(t)
		defer k.Close()
		addresses(t)
		ports := make([]kernel.Port, 10_000)
		for i := range ports {
			ports[i] = at("", "tcp", uint16(20_000+i))
		}
		listen(t, "tcp4", "0.0.0.0:25000", nil)
		began := time.Now()
		held, err := k.Held(ports)
		if took := time.Since(began); err != nil || len(held) != 1 || took > 5*time.Second {
			t.Errorf("10,000 ports: held %v, %v, after %s", held, err, took)
		}
	})
}
