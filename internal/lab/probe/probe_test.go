package probe_test

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

const (
	near4, far4 = "192.0.2.1", "192.0.2.2"
	near6, far6 = "2001:db8::1", "2001:db8::2"
)

// link is two namespaces on one link: a client's and that of a server named far.
func link(t *testing.T) (near, far *space.Space) {
	t.Helper()
	open := func(name string) *space.Space {
		s, err := space.New(filepath.Join(t.TempDir(), name))
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
	near, far = open("near"), open("far")
	if err := near.Bridge("lan", netip.MustParsePrefix(near4+"/24"), netip.MustParsePrefix(near6+"/64")); err != nil {
		t.Fatal(err)
	}
	if err := near.Plug("lan", "port", far, "eth0", netip.MustParsePrefix(far4+"/24"), netip.MustParsePrefix(far6+"/64")); err != nil {
		t.Fatal(err)
	}
	serve(t, far)
	return near, far
}

func serve(t *testing.T, at *space.Space) {
	t.Helper()
	var s *probe.Server
	err := at.Do(func() (err error) {
		s, err = probe.Listen("far", probe.TargetPort, probe.HiddenPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

func TestAnswers(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 5 * time.Second}
	for client, server := range map[string]string{near4: far4, near6: far6} {
		to := at(server, probe.TargetPort)
		if a, err := c.Get(to); err != nil || a.Name != "far" || a.Source.Addr().String() != client {
			t.Errorf("get = %+v, %v, want far seeing %s", a, err, client)
		}
		if a, err := c.Ask(to, 700); err != nil || a.Name != "far" || a.Source.Addr().String() != client || a.Length != 700 {
			t.Errorf("ask = %+v, %v, want far seeing %s and 700 bytes", a, err, client)
		}
		if n, err := c.Download(to); n != probe.BigSize || err != nil {
			t.Errorf("download from %s = %d, %v, want %d", server, n, err, probe.BigSize)
		}
		if n, err := c.Upload(to, probe.BigSize); n != probe.BigSize || err != nil {
			t.Errorf("upload to %s = %d, %v, want %d", server, n, err, probe.BigSize)
		}
	}
}

func TestHeard(t *testing.T) {
	near, far := link(t)
	if err := (probe.Client{Place: near, Wait: time.Second}).Tell(at(far4, probe.HiddenPort), "hello"); err != nil {
		t.Fatal(err)
	}
	inside := probe.Client{Place: far, Wait: time.Second}
	for range 50 { // the datagram and the question race
		heard, err := inside.Heard(at("127.0.0.1", probe.TargetPort))
		if err != nil {
			t.Fatal(err)
		}
		if len(heard) == 1 && heard[0] == "hello" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the datagram was not heard")
}

func TestOnePort(t *testing.T) {
	near, far := link(t)
	second := netip.MustParsePrefix("192.0.2.3/24")
	if err := far.Address("eth0", second); err != nil {
		t.Fatal(err)
	}
	c := probe.Client{Place: near, Local: at(near4, 44000), Wait: 5 * time.Second}
	to := []netip.AddrPort{at(far4, probe.TargetPort), netip.AddrPortFrom(second.Addr(), probe.TargetPort)}
	answers, err := c.GetFromOnePort(to)
	if err != nil || len(answers) != 4 {
		t.Errorf("TCP from one port: %d answers, %v, want 4", len(answers), err)
	}
	for _, a := range answers {
		if a.Source != c.Local {
			t.Errorf("TCP from one port: seen as %s, want %s", a.Source, c.Local)
		}
	}
	// A server on no address of its own answers from the first one it has.
	if answers, err := c.AskFromOnePort(to[:1]); err != nil || len(answers) != 1 || answers[0].Source != c.Local {
		t.Errorf("UDP from one port = %v, %v, want one answer to %s", answers, err, c.Local)
	}
}

func TestOutcomes(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 10 * time.Second}
	hasty := probe.Client{Place: near, Wait: 300 * time.Millisecond}
	get := func(addr string, port uint16) error { _, err := c.Get(at(addr, port)); return err }
	ask := func(addr string, port uint16) error { _, err := c.Ask(at(addr, port), 1); return err }
	_, nobody := hasty.Get(at("192.0.2.77", 80))
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"tcp answered":    {get(far4, probe.TargetPort), "answered"},
		"tcp refused":     {get(far4, 9), "refused"},
		"udp refused":     {ask(far6, 9), "refused"},
		"no route":        {get("198.51.100.1", 80), "unreachable"},
		"nobody is there": {nobody, "silence"},
	} {
		if got := probe.Outcome(tt.err); got != tt.want {
			t.Errorf("%s: outcome %q (%v), want %q", name, got, tt.err, tt.want)
		}
	}
}

// On a link that carries everything nobody is told anything.
func TestPathMTUNotTold(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 5 * time.Second}
	for _, addr := range []string{far4, far6} {
		// Whether it fits is not asked: the first answer is to one of the large ones.
		told, _, err := c.PathMTU(at(addr, probe.TargetPort))
		if told || err != nil {
			t.Errorf("path MTU to %s: told %t, %v, want nothing told", addr, told, err)
		}
	}
}
