package table

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

func fixed(to, how, want, got string) Check {
	return Check{From: "client", To: to, How: how, Want: want, try: func() string { return got }}
}

func TestPrint(t *testing.T) {
	table := Run([]Check{
		fixed("n1 192.0.2.1", "tcp", "a b see 192.0.2.9", "a b see 192.0.2.9"),
		fixed("n1 192.0.2.1", "udp", "a b see 192.0.2.9", "a b see 192.0.2.9"),
		fixed("n2 192.0.2.2", "tcp", "a b see 192.0.2.9", "a sees 192.0.2.9"),
		fixed("n2 192.0.2.2", "udp", "a b see 192.0.2.9", "silence"),
		fixed("n2 192.0.2.2, nothing published", "tcp", "refused", "refused"),
	})
	var text strings.Builder
	if err := table.Print(&text); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, text.String())
}

func TestSilentChecksRunBeside(t *testing.T) {
	meet := make(chan struct{})
	first := Check{silent: true, Want: "met", try: func() string { <-meet; return "met" }}
	second := Check{Want: "met", try: func() string { close(meet); return "met" }}
	if wrong := Run([]Check{first, second}).Wrong(); len(wrong) > 0 {
		t.Errorf("wrong cells: %v", wrong)
	}
}

// answers gives one answer after the other, from endpoints in turn.
func answers(names ...string) func() (probe.Answer, error) {
	i := -1
	return func() (probe.Answer, error) {
		i++
		name := names[i%len(names)]
		if name == "" {
			return probe.Answer{}, syscall.ECONNREFUSED
		}
		return probe.Answer{Name: name, Source: netip.MustParseAddrPort("192.0.2.9:4000")}, nil
	}
}

func TestGather(t *testing.T) {
	for name, tt := range map[string]struct {
		ask  func() (probe.Answer, error)
		want string
	}{
		"both in turn":    {answers("b", "a"), "a b see 192.0.2.9"},
		"one only":        {answers("a"), "a sees 192.0.2.9"},
		"one after long":  {answers("a", "a", "a", "a", "a", "a", "a", "a", "b"), "a b see 192.0.2.9"},
		"one is refused":  {answers("a", ""), "refused"},
		"nobody, unknown": {func() (probe.Answer, error) { return probe.Answer{}, errors.New("odd") }, "odd"},
	} {
		if got := gather(2, tt.ask); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
