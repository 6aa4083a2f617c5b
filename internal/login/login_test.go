package login

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

func must[T any](tb testing.TB) func(T, error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func after(d time.Duration) func() time.Time { return func() time.Time { return noon().Add(d) } }

func newAuthority(tb testing.TB) *trust.Authority {
	tb.Helper()
	return must[*trust.Authority](tb)(trust.NewAuthority(noon()))
}

// loginAt is one that a node of a made.
func loginAt(tb testing.TB, host string, a *trust.Authority, now func() time.Time) *Login {
	tb.Helper()
	key := trust.NewKey()
	cert := must[[]byte](tb)(a.Issue(trust.RoleOperator, "alice", key.Public(), now()))
	return must[*Login](tb)(newLogin(host, key, a.Public(), cert, now))
}

// The whole way: a token at a real door, the disk, and TLS to a node.
func TestMakeKeepUse(t *testing.T) {
	a := newAuthority(t)
	node := must[*trust.Credentials](t)(trust.NewCredentials(trust.CredentialsConfig{Key: trust.NewKey(), Authority: a, Now: after(0)}))
	token := must[trust.JoinToken](t)(trust.NewJoinToken(a, trust.RoleViewer, noon().Add(time.Hour)))
	door := trust.Door{
		Grant:  func(trust.TokenID) (trust.Grant, bool) { return token.Grant(), true },
		Bundle: func() trust.Bundle { return trust.Bundle{Authority: a, Gossip: []trust.Secret{trust.NewSecret()}} },
		Now:    after(0),
	}
	made := meet(t, func(conn net.Conn) *Login {
		return must[*Login](t)(Make(t.Context(), conn, Asking{Host: "192.0.2.1:7957", Token: token, Name: "alice", Now: after(0)}))
	}, func(conn net.Conn) { _, _ = door.Serve(t.Context(), tls.Server(conn, node.Server(trust.ProtocolJoin))) })
	dir := Dir(t.TempDir())
	if err := dir.Put(made); err != nil {
		t.Fatal(err)
	}
	l := must[*Login](t)(dir.For("192.0.2.1:7957", after(time.Hour)))
	who := meet(t, func(conn net.Conn) trust.Identity {
		if err := tls.Client(conn, l.TLS()).Handshake(); err != nil {
			t.Error(err)
		}
		return l.Who()
	}, func(conn net.Conn) {
		session := tls.Server(conn, node.Server(trust.ProtocolAPI))
		if err := session.Handshake(); err != nil {
			t.Error(err)
			return
		}
		if id := must[trust.Identity](t)(node.Peer(session.ConnectionState())); id.Role != trust.RoleViewer || id.Name != "alice" {
			t.Errorf("the node sees %v", id)
		}
	})
	if who.Role != trust.RoleViewer || who.Name != "alice" || l.Due() {
		t.Errorf("got %v", who)
	}
}

func meet[T any](t *testing.T, call func(net.Conn) T, answer func(net.Conn)) T {
	t.Helper()
	near, far := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() { answer(far) })
	defer group.Wait()
	got := call(near)
	t.Cleanup(func() { near.Close(); far.Close() })
	return got
}

func TestWhichLogin(t *testing.T) {
	one, two := newAuthority(t), newAuthority(t)
	for name, row := range map[string]struct {
		kept   map[string]*trust.Authority // by host
		host   string
		want   string
		reason mesh.Reason
	}{
		"none":                     {host: "a:1", reason: NoLogin},
		"its own":                  {kept: map[string]*trust.Authority{"a:1": one, "b:1": two}, host: "b:1", want: "b:1"},
		"the only one":             {kept: map[string]*trust.Authority{"a:1": one}, host: "c:1", want: "a:1"},
		"any of one cluster":       {kept: map[string]*trust.Authority{"a:1": one, "b:1": one}, host: "c:1", want: "b:1"},
		"none of several":          {kept: map[string]*trust.Authority{"a:1": one, "b:1": two}, host: "c:1", reason: NoLogin},
		"a name that is a path":    {kept: map[string]*trust.Authority{"../x:1": one}, host: "../x:1", want: "../x:1"},
		"an address of IPv6, zone": {kept: map[string]*trust.Authority{"[fe80::1%eth0]:1": one}, host: "[fe80::1%eth0]:1", want: "[fe80::1%eth0]:1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := Dir(filepath.Join(t.TempDir(), "logins"))
			later := time.Duration(0)
			for _, host := range []string{"a:1", "b:1", "../x:1", "[fe80::1%eth0]:1"} {
				if a := row.kept[host]; a != nil {
					if err := dir.Put(loginAt(t, host, a, after(later))); err != nil {
						t.Fatal(err)
					}
					later += time.Hour
				}
			}
			if got := dir.files(); len(got) != len(row.kept) {
				t.Errorf("kept %q", got)
			}
			l, err := dir.For(row.host, after(later))
			if mesh.ReasonOf(err) != row.reason || (err == nil) != (row.reason == "") {
				t.Fatalf("got %v", err)
			}
			if err == nil && l.Host() != row.want {
				t.Errorf("got that of %s", l.Host())
			}
		})
	}
}

func TestNoLoginThatCannotBeUsed(t *testing.T) {
	a := newAuthority(t)
	for name, row := range map[string]struct {
		spoil  func(path string) error
		after  time.Duration
		reason mesh.Reason
	}{
		"cut":               {spoil: func(path string) error { return os.Truncate(path, 100) }, reason: Damaged},
		"too long":          {spoil: func(path string) error { return os.Truncate(path, fileLimit+1) }, reason: Damaged},
		"another version":   {spoil: replacer(`"v":1`, `"v":2`), reason: trust.NewerVersion},
		"another's key":     {spoil: replacer(`"key":"`, `"key":"AAAA`), reason: Damaged},
		"no CA":             {spoil: replacer(`"authority":"`, `"authority":"AAAA`), reason: Damaged},
		"others may read":   {spoil: func(path string) error { return os.Chmod(path, 0o604) }, reason: Exposed},
		"its time is over":  {after: trust.ClientLifetime + trust.Tolerance + time.Hour, reason: trust.CertExpired},
		"its time is not":   {after: trust.ClientLifetime},
		"of the far future": {after: -50 * time.Hour}, // a clock of before the CA says nothing
	} {
		t.Run(name, func(t *testing.T) {
			dir := Dir(t.TempDir())
			if err := dir.Put(loginAt(t, "a:1", a, after(0))); err != nil {
				t.Fatal(err)
			}
			if row.spoil != nil {
				if err := row.spoil(dir.path("a:1")); err != nil {
					t.Fatal(err)
				}
			}
			for _, host := range []string{"a:1", "b:1"} {
				if _, err := dir.For(host, after(row.after)); mesh.ReasonOf(err) != row.reason || (err == nil) != (row.reason == "") {
					t.Errorf("for %s: got %v, want %q", host, err, row.reason)
				}
			}
		})
	}
}

func replacer(old, by string) func(string) error {
	return func(path string) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strings.Replace(string(text), old, by, 1)), 0o600)
	}
}

// A node gives nobody another role or name than it has.
func TestRenewedIsOfTheSamePerson(t *testing.T) {
	a := newAuthority(t)
	l := loginAt(t, "a:1", a, after(0))
	for _, row := range []struct {
		role trust.Role
		name string
		ok   bool
	}{{trust.RoleOperator, "alice", true}, {trust.RoleViewer, "alice", false}, {trust.RoleOperator, "bob", false}, {trust.RoleNode, "", false}} {
		cert := must[[]byte](t)(a.Issue(row.role, row.name, l.key.Public(), noon()))
		if _, err := l.Renewed(cert); (err == nil) != row.ok {
			t.Errorf("%s %s: %v", row.role, row.name, err)
		}
	}
	if _, err := l.Renewed(must[[]byte](t)(a.Issue(trust.RoleOperator, "alice", trust.NewKey().Public(), noon()))); err == nil {
		t.Error("a certificate for another key is taken")
	}
}
