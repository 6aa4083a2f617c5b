package probe_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

func sniff(t *testing.T, at probe.Place) *probe.Sniffer {
	t.Helper()
	s, err := probe.Sniff(at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestAttemptIsSeenAndAnswered(t *testing.T) {
	near, far := link(t)
	s := sniff(t, far)
	c := probe.Client{Place: near, Wait: 5 * time.Second}
	for client, server := range map[string]string{near4: far4, near6: far6} {
		for _, proto := range []string{"tcp", "udp"} {
			s.Forget()
			to := at(server, probe.TargetPort)
			a, err := c.Begin(proto, to)
			if err != nil {
				t.Fatal(err)
			}
			p, seen := s.Await(5*time.Second, func(p probe.Packet) bool { return p.Proto == proto && p.Dest == to })
			if !seen || p.Source.Addr().String() != client {
				t.Errorf("%s to %s: seen %t from %s, want from %s", proto, to, seen, p.Source, client)
			}
			if answer, err := a.Finish(5 * time.Second); err != nil || answer.Source != p.Source {
				t.Errorf("%s to %s: %+v, %v, want it to see %s", proto, to, answer, err, p.Source)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// Who accepts may be another than who answers: it is known before the answer.
func TestAttemptIsAccepted(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 5 * time.Second}
	for _, tt := range []struct {
		proto string
		to    netip.AddrPort
		want  bool
	}{
		{"tcp", at(far4, probe.TargetPort), true},
		{"tcp", at(far6, probe.TargetPort), true},
		{"udp", at(far4, probe.TargetPort), false},
		{"tcp", at(far4, 9), false},
		{"tcp", at("198.51.100.1", 80), false},
	} {
		a, err := c.Begin(tt.proto, tt.to)
		if err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); tt.want && !a.Accepted() && time.Since(began) < 5*time.Second; {
			time.Sleep(time.Millisecond)
		}
		if got := a.Accepted(); got != tt.want {
			t.Errorf("%s to %s: accepted %t", tt.proto, tt.to, got)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAttemptIsRefused(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 5 * time.Second}
	for want, to := range map[string]netip.AddrPort{"refused": at(far4, 9), "unreachable": at("198.51.100.1", 80)} {
		for _, proto := range []string{"tcp", "udp"} {
			a, err := c.Begin(proto, to)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Finish(5 * time.Second); probe.Outcome(err) != want {
				t.Errorf("%s to %s: %v, want %s", proto, to, err, want)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A frame made by hand arrives, and its datagram is taken: the checksums are right.
func TestFrame(t *testing.T) {
	near, far := link(t)
	s := sniff(t, far)
	mac := hardware(t, far, "eth0")
	for client, server := range map[string]string{near4: far4, near6: far6} {
		for _, proto := range []string{probe.Reset, probe.Ack, "tcp", "sctp", "udp"} {
			want := probe.Packet{Proto: proto, Source: at(client, 45000), Dest: at(server, probe.HiddenPort)}
			if proto == "udp" {
				want.Payload = "made-by-hand-for-" + server
			}
			seen := false
			for range 50 { // the bridge may not forward yet
				if err := (probe.Frame{Device: "lan", To: mac, Packet: want}).Send(near); err != nil {
					t.Fatal(err)
				}
				if _, seen = s.Await(100*time.Millisecond, func(p probe.Packet) bool { return p == want }); seen {
					break
				}
			}
			if !seen {
				t.Errorf("%+v did not arrive", want)
			}
		}
	}
	inside := probe.Client{Place: far, Wait: 5 * time.Second}
	for range 50 { // the datagram and the question race
		if heard, err := inside.Heard(at("127.0.0.1", probe.TargetPort)); err == nil && len(heard) >= 2 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the server did not take both datagrams")
}

func hardware(t *testing.T, s *space.Space, device string) (mac net.HardwareAddr) {
	t.Helper()
	err := s.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}
