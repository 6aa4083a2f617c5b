package agent

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
)

// So many handshakes a second are made for strangers, of one origin and of all, and others for who
// lives where a member is connected.
func TestGreetingsAreCounted(t *testing.T) {
	var g greetings
	now := time.Unix(0, 0)
	from := func(n int) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 32) }
	count := func(n int, take func(netip.Prefix, time.Time) time.Duration) (taken int) {
		for range 1000 {
			if take(from(n), now) == 0 {
				taken++
			}
		}
		return taken
	}
	all := 0
	for n := range 20 {
		taken := count(n, g.stranger)
		if taken > greetingsSource {
			t.Errorf("%d of one origin", taken)
		}
		all += taken
	}
	if all != greetingsAll {
		t.Errorf("%d of all strangers", all)
	}
	if taken := count(100, g.neighbour); taken != greetingsKnown {
		t.Errorf("%d beside a member", taken)
	}
	if wait := g.stranger(from(200), now); wait <= 0 || wait > time.Second {
		t.Errorf("the next one waits %s", wait)
	}
	now = now.Add(time.Second)
	if count(200, g.stranger) != greetingsSource {
		t.Error("the next second is not another one")
	}
}

// Strangers that do nothing but begin get few handshakes, and few lines of the log.
func TestStrangersGetFewHandshakes(t *testing.T) {
	a := newRemoteCluster(t, 1)[0]
	other, key := must(trust.NewAuthority(time.Now())), trust.NewKey()
	cert := must(other.Issue(trust.RoleOperator, "x", key.Public(), time.Now()))
	cfg := credsOf(key, other, cert).Client(trust.ProtocolAPI, "")
	cfg.VerifyConnection = nil
	cfg.InsecureSkipVerify = true //nolint:gosec // a stranger does not care who answers
	began := time.Now()
	var made atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for time.Since(began) < 1500*time.Millisecond {
				raw, err := net.Dial("tcp", a.cfg.API.String())
				if err != nil {
					continue
				}
				_ = raw.SetDeadline(began.Add(1500 * time.Millisecond))
				if tls.Client(raw, cfg).Handshake() == nil {
					made.Add(1)
				}
				raw.Close()
			}
		})
	}
	all.Wait()
	if most := int64(time.Since(began)/time.Second+2) * greetingsSource; made.Load() == 0 || made.Load() > most {
		t.Errorf("%d handshakes, of %d at most", made.Load(), most)
	}
	if err := getStatus(t.Context(), a.remoteFor(a.credsFor(trust.RoleViewer))); err != nil {
		t.Errorf("a member: %v", err)
	}
}

func TestFewLines(t *testing.T) {
	var out bytes.Buffer
	log := newFewLines(slog.New(slog.NewTextHandler(&out, nil)))
	for range 1000 {
		log.With("from", "192.0.2.7").Warn("a login was refused")
	}
	if lines := strings.Count(out.String(), "\n"); lines != strangersLines {
		t.Errorf("%d lines", lines)
	}
	log.Handler().(fewLines).ends = time.Now()
	log.Warn("a login was refused")
	if !strings.Contains(out.String(), "kept_back=980") {
		t.Error("nothing tells of the others")
	}
}
