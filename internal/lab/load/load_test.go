package load

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "load" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestLoad(t *testing.T) {
	feature.Need(t, feature.Namespaces)
	s, err := space.New(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var server *probe.Server
	err = s.Do(func() (err error) { server, err = probe.Listen("web", 80); return err })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() { cancel(); <-done }()

	local := netip.MustParseAddr("127.0.0.1")
	at := func(name, network string, flow Flow, port uint16, by string, sees netip.Addr) Target {
		return Target{name, network, flow, netip.AddrPortFrom(local, port), []string{by}, sees}
	}
	other := netip.MustParseAddr("192.0.2.1")
	l, err := Start(s, []string{os.Args[0], "load"}, Spec{Rate: 200, Wait: time.Second, Targets: []Target{
		at("tcp new", "tcp", Fresh, 80, "web", local), at("tcp kept", "tcp", Kept, 80, "web", local),
		at("udp new", "udp", Fresh, 80, "web", local), at("udp kept", "udp", Kept, 80, "web", local),
		at("nobody", "tcp", Fresh, 81, "web", local), at("stranger", "udp", Kept, 80, "api", local),
		at("masked", "tcp", Kept, 80, "web", other),
	}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	tally, err := l.Stop()
	if err != nil {
		t.Fatal(err)
	}
	failed := tally.Failed()
	if n := len(tally.Requests); n < 140 || len(failed) < 3*(n/7) || len(failed) > 3*(n/7+1) {
		t.Errorf("%d requests, %d failed, want about 200 of which three in seven fail", n, len(failed))
	}
	text := tally.Describe(failed[0].Began)
	for _, want := range []string{"nobody: ", "times refused", "stranger: ", "web sees 127.0.0.1, want one of [api]", "masked: "} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "tcp new") || strings.Contains(text, "udp kept") {
		t.Errorf("what is answered is told as failed:\n%s", text)
	}
}

func TestSilenceIsCounted(t *testing.T) {
	// Nobody answers at a UDP socket that is only bound: each request waits.
	s, err := space.New(filepath.Join(t.TempDir(), "host"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	deaf := netip.MustParseAddrPort("127.0.0.1:80")
	err = s.Do(func() error {
		_, err := probe.Listen("deaf", 80) // and never run
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Start(s, []string{os.Args[0], "load"}, Spec{
		Rate: 100, Wait: 100 * time.Millisecond, Targets: []Target{{"deaf", "udp", Fresh, deaf, []string{"deaf"}, deaf.Addr()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	tally, err := l.Stop()
	if n := len(tally.Failed()); err != nil || n != len(tally.Requests) || n < 20 || tally.Failed()[0].Why != "silence" {
		t.Errorf("%d of %d failed, %v, want all, by silence", n, len(tally.Requests), err)
	}
}

func TestTally(t *testing.T) {
	then := time.Now()
	at := func(ms int) time.Time { return then.Add(time.Duration(ms) * time.Millisecond) }
	tally := Tally{Spec{Targets: []Target{{Name: "a"}, {Name: "b"}}}, []Request{
		{0, at(-100), 10 * time.Millisecond, ""},
		{0, at(100), 10 * time.Millisecond, ""},
		{1, at(300), 200 * time.Millisecond, "silence"},
		{1, at(200), 200 * time.Millisecond, "silence"},
		{1, at(900), 50 * time.Millisecond, ""},
	}}
	if got := tally.Gap(then); got != 950*time.Millisecond {
		t.Errorf("gap %s, want 950ms: until b answered", got)
	}
	if got := tally.Back(then); got != 300*time.Millisecond {
		t.Errorf("back after %s, want 300ms", got)
	}
	if got := tally.Rate(); got != 4 {
		t.Errorf("rate %v, want 4", got)
	}
	if got := tally.Slowest(); got != 50*time.Millisecond {
		t.Errorf("slowest %s, want 50ms", got)
	}
	if got, want := tally.Describe(then), "  b: 2 times silence, from 200ms to 300ms\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if (Tally{}).Rate() != 0 || (Tally{}).Back(then) != 0 || (Tally{}).Gap(then) != 0 {
		t.Error("nothing is not nothing")
	}
}
