package main

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/login"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// fakeNode is an agent's API over TCP: its TLS and its door are real, and what is asked over it is
// answered by a fakeAgent.
type fakeNode struct {
	*fakeAgent
	host  string // ADDR:PORT
	made  time.Time
	creds *trust.Credentials
	token trust.JoinToken

	mu     sync.Mutex
	refuse error // of everybody's certificate
}

func check[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// startNode serves a cluster that was made some time ago.
func startNode(t *testing.T, age time.Duration, role trust.Role, answers map[string]any) *fakeNode {
	t.Helper()
	n := &fakeNode{fakeAgent: startAgent(t, answers), made: time.Now().Add(-age)}
	a := check[*trust.Authority](t)(trust.NewAuthority(n.made))
	n.token = check[trust.JoinToken](t)(trust.NewJoinToken(a, role, time.Now().Add(time.Hour)))
	n.creds = check[*trust.Credentials](t)(trust.NewCredentials(trust.CredentialsConfig{Key: trust.NewKey(), Authority: a, Now: time.Now, Admit: n.admit}))
	n.host = n.serve(t)
	return n
}

func (n *fakeNode) admit(trust.Identity) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refuse
}

// serve listens, and returns where.
func (n *fakeNode) serve(t *testing.T) string {
	t.Helper()
	l := check[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				n.answer(t, tls.Server(conn, n.creds.Server(trust.ProtocolAPI, trust.ProtocolJoin)))
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return l.Addr().String()
}

func (n *fakeNode) answer(t *testing.T, conn *tls.Conn) {
	t.Helper()
	if conn.Handshake() != nil {
		return
	}
	if trust.Protocol(conn.ConnectionState().NegotiatedProtocol) == trust.ProtocolJoin {
		door := trust.Door{
			Grant: func(id trust.TokenID) (trust.Grant, bool) { return n.token.Grant(), id == n.token.ID },
			Bundle: func() trust.Bundle {
				return trust.Bundle{Authority: n.creds.Authority(), Gossip: []trust.Secret{trust.NewSecret()}}
			},
			// Whom it lets in has been so since the cluster was made.
			Now: func() time.Time { return n.made },
		}
		_, _ = door.Serve(t.Context(), conn)
		return
	}
	inner, err := net.Dial("unix", strings.TrimPrefix(n.fakeAgent.host, "unix://"))
	if err != nil {
		return
	}
	defer inner.Close()
	var group sync.WaitGroup
	group.Go(func() { _, _ = io.Copy(inner, conn); inner.Close() })
	_, _ = io.Copy(conn, inner)
	conn.Close()
	group.Wait()
}

// loggedIn is a user who has a login at n.
func (n *fakeNode) loggedIn(t *testing.T) result {
	t.Helper()
	got := sluice(t, newApp(), "login", n.host, "--token", n.token.Text(), "--name", "alice")
	if got.status != 0 || got.stderr != "" {
		t.Fatalf("got %+v", got)
	}
	return got
}

func atHome(t *testing.T) login.Dir {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	return check[login.Dir](t)(login.Home())
}

func nodeAnswers() map[string]any {
	return map[string]any{"RemoveNetwork": &sluicev1.RemoveNetworkResponse{}}
}

func TestLogin(t *testing.T) {
	dir := atHome(t)
	n := startNode(t, 0, trust.RoleOperator, nodeAnswers())
	if got := n.loggedIn(t); !strings.HasPrefix(got.stdout, "alice is operator of the cluster, until ") || !strings.Contains(got.stdout, "sluice --host tcp://"+n.host+" status") {
		t.Errorf("got %q", got.stdout)
	}
	files := check[[]string](t)(filepath.Glob(string(dir) + "/*"))
	if len(files) != 1 {
		t.Fatalf("kept %q", files)
	}
	for path, want := range map[string]os.FileMode{files[0]: 0o600, string(dir): 0o700} {
		if got := check[os.FileInfo](t)(os.Stat(path)).Mode().Perm(); got != want {
			t.Errorf("%s is %o", path, got)
		}
	}
	// With another node of the cluster as well.
	for _, host := range []string{n.host, n.serve(t)} {
		if got := sluice(t, newApp(), "--host", "tcp://"+host, "network", "rm", "back"); got.status != 0 {
			t.Errorf("at %s: %+v", host, got)
		}
	}
	if asked := n.questions(); len(asked) != 2 {
		t.Errorf("asked %q", asked)
	}
	if got := sluice(t, newApp(), "logout", n.host); got.status != 0 {
		t.Errorf("got %+v", got)
	}
	got := sluice(t, newApp(), "--host", "tcp://"+n.host, "network", "rm", "back")
	if want := "sluice: remove network \"back\": there is no login here: " + login.Again + "\n"; got.status != 1 || got.stderr != want {
		t.Errorf("got %+v", got)
	}
}

// What keeps somebody out says why, and what to do.
func TestLoginIsOfNoUse(t *testing.T) {
	for name, row := range map[string]struct {
		age  time.Duration // of the login
		role trust.Role
		then func(*testing.T, *fakeNode)
		want string
	}{
		"a node was removed": {then: func(t *testing.T, n *fakeNode) {
			t.Helper()
			check[bool](t)(n.creds.Replace(check[*trust.Authority](t)(n.creds.Authority().Next(time.Now()))))
		}, want: "and this login do not know each other: the node is of another cluster, or a node was removed since, which ends all logins: " + login.Again},
		"the node does not take it": {then: func(_ *testing.T, n *fakeNode) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refuse = mesh.Refuse(trust.WrongCluster, "do", "why")
		}, want: "a node was removed since, which ends all logins: " + login.Again},
		"it ended": {age: 367 * 24 * time.Hour, want: "has ended: nobody used it in its last months, when it renews itself: " + login.Again},
		"others may read it": {then: func(t *testing.T, _ *fakeNode) {
			t.Helper()
			dir := check[login.Dir](t)(login.Home())
			for _, path := range check[[]string](t)(filepath.Glob(string(dir) + "/*")) {
				if err := os.Chmod(path, 0o640); err != nil {
					t.Fatal(err)
				}
			}
		}, want: "which holds a key: run 'chmod 600' on it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := atHome(t)
			n := startNode(t, row.age, trust.RoleViewer, nodeAnswers())
			if row.age > 0 {
				n.keeps(t, dir)
			} else {
				n.loggedIn(t)
			}
			if row.then != nil {
				row.then(t, n)
			}
			got := sluice(t, newApp(), "--host", "tcp://"+n.host, "network", "rm", "back")
			if got.status != 1 || !strings.Contains(got.stderr, row.want) {
				t.Errorf("got %+v\nwant %q", got, row.want)
			}
			if len(n.questions()) > 0 {
				t.Errorf("asked %q", n.questions())
			}
		})
	}
}

// keeps writes the login that somebody has had since the cluster was made.
func (n *fakeNode) keeps(t *testing.T, dir login.Dir) {
	t.Helper()
	then := func() time.Time { return n.made }
	creds := check[*trust.Credentials](t)(trust.NewCredentials(trust.CredentialsConfig{Key: trust.NewKey(), Authority: n.creds.Authority(), Now: then}))
	near, far := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() {
		defer far.Close()
		n.answer(t, tls.Server(far, creds.Server(trust.ProtocolJoin)))
	})
	defer group.Wait()
	defer near.Close()
	if err := dir.Put(check[*login.Login](t)(login.Make(t.Context(), near, login.Asking{Host: n.host, Token: n.token, Name: "alice", Now: then}))); err != nil {
		t.Fatal(err)
	}
}

// A login of which more than half of the time is over is renewed by the call for which it is used.
func TestLoginRenewsItself(t *testing.T) {
	dir := atHome(t)
	answers := nodeAnswers()
	n := startNode(t, 300*24*time.Hour, trust.RoleOperator, answers)
	n.keeps(t, dir)
	before := check[*login.Login](t)(dir.For(n.host, time.Now))
	id := before.Who()
	answers["RenewCertificate"] = &sluicev1.RenewCertificateResponse{
		Certificate: check[[]byte](t)(n.creds.Authority().Issue(id.Role, id.Name, id.Key, time.Now())),
	}
	for range 2 {
		if got := sluice(t, newApp(), "--host", "tcp://"+n.host, "network", "rm", "back"); got.status != 0 {
			t.Fatalf("got %+v", got)
		}
	}
	if asked := n.questions(); len(asked) != 3 || !strings.HasPrefix(asked[1], "RenewCertificate") {
		t.Errorf("asked %q", asked)
	}
	if after := check[*login.Login](t)(dir.For(n.host, time.Now)); !after.Who().NotAfter.After(id.NotAfter.Add(200 * 24 * time.Hour)) {
		t.Errorf("it ends at %s, and did at %s", after.Who().NotAfter, id.NotAfter)
	}
}

// Where there are logins in several clusters, none is shown to a node that it was not made by.
func TestLoginOfSeveralClusters(t *testing.T) {
	atHome(t)
	one, two := startNode(t, 0, trust.RoleOperator, nodeAnswers()), startNode(t, 0, trust.RoleViewer, nodeAnswers())
	one.loggedIn(t)
	two.loggedIn(t)
	for _, n := range []*fakeNode{one, two} {
		if got := sluice(t, newApp(), "--host", "tcp://"+n.host, "network", "rm", "back"); got.status != 0 {
			t.Errorf("got %+v", got)
		}
	}
	got := sluice(t, newApp(), "--host", "tcp://"+one.serve(t), "network", "rm", "back")
	if got.status != 1 || !strings.Contains(got.stderr, "there is no login at ") || !strings.Contains(got.stderr, one.host) || !strings.Contains(got.stderr, two.host) {
		t.Errorf("got %+v", got)
	}
}

func TestLoginRefused(t *testing.T) {
	atHome(t)
	n, other := startNode(t, 0, trust.RoleNode, nil), startNode(t, 0, trust.RoleViewer, nil)
	for name, row := range map[string]struct{ host, token, want string }{
		"a node's token":         {n.host, n.token.Text(), "the token makes a node: run 'sluice join'"},
		"another cluster's node": {n.host, other.token.Text(), "the node is of another cluster than the token"},
		"no token":               {n.host, "sluice-2-abc", "the token is not complete"},
		"nobody there":           {"127.0.0.1:1", other.token.Text(), "no agent answers: "},
	} {
		got := sluice(t, newApp(), "login", row.host, "--token", row.token)
		if got.status != 1 || got.stdout != "" || !strings.HasPrefix(got.stderr, "sluice: log in at "+row.host+": ") || !strings.Contains(got.stderr, row.want) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// A command that runs here is no endpoint of an agent that is elsewhere.
func TestRunIsLocal(t *testing.T) {
	atHome(t)
	n := startNode(t, 0, trust.RoleOperator, nil)
	n.loggedIn(t)
	a := newApp()
	a.workloads = &fakeWorkloads{}
	got := sluice(t, a, "--host", "tcp://"+n.host, "run", "--service", "web", "--", "true")
	if got.status != 1 || !strings.Contains(got.stderr, "run it there") || len(n.questions()) > 0 {
		t.Errorf("got %+v", got)
	}
}
