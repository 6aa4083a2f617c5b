package trust

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// testCluster is one node with a door, and the tokens that were made.
type testCluster struct {
	bundle Bundle
	node   *Credentials
	grants map[TokenID]Grant
	door   *Door
	viewer JoinToken
}

func newTestCluster(tb testing.TB) *testCluster {
	tb.Helper()
	c := &testCluster{bundle: must[Bundle](tb)(NewBundle(noon())), grants: map[TokenID]Grant{}}
	c.node = member(tb, c.bundle.Authority, 1)
	c.door = &Door{
		Grant:  func(id TokenID) (Grant, bool) { g, ok := c.grants[id]; return g, ok },
		Bundle: func() Bundle { return c.bundle },
		Now:    at(time.Minute),
	}
	return c
}

func (c *testCluster) token(tb testing.TB, role Role) JoinToken {
	tb.Helper()
	token := testToken(tb, c.bundle.Authority, role)
	c.grants[token.ID] = token.Grant()
	return token
}

// served is what the door said of one connection.
type served struct {
	id  Identity
	err error
}

// open answers one connection in a goroutine that ends with the channel's one value.
func (c *testCluster) open(ctx context.Context, conn net.Conn) <-chan served {
	done := make(chan served, 1)
	go func() {
		id, err := c.door.Serve(ctx, tls.Server(conn, c.node.Server(ProtocolJoin, ProtocolReturn, ProtocolSync)))
		conn.Close()
		done <- served{id, err}
	}()
	return done
}

func (c *testCluster) join(tb testing.TB, j Joining) (*Admission, served, error) {
	tb.Helper()
	client, server := loopback(tb)
	done := c.open(tb.Context(), server)
	a, err := Join(tb.Context(), client, j)
	client.Close()
	return a, <-done, err
}

func TestJoin(t *testing.T) {
	c := newTestCluster(t)
	for _, role := range roles() {
		j := Joining{Token: c.token(t, role), Key: NewKey(), Now: at(0)}
		if role != RoleNode {
			j.Name = "alice"
		}
		a, s, err := c.join(t, j)
		if err != nil || s.err != nil {
			t.Fatal(err, s.err)
		}
		if s.id.Key != j.Key.Public() || s.id.Role != role || s.id.Name != j.Name {
			t.Errorf("the door admitted %+v", s.id)
		}
		if a.Authority.Pin() != c.bundle.Authority.Pin() || a.Authority.CanIssue() != (role == RoleNode) || (len(a.Gossip) > 0) != (role == RoleNode) {
			t.Errorf("%s got %v and %d keys", role, a.Authority, len(a.Gossip))
		}
		if role == RoleNode && a.Gossip[0] != c.bundle.Gossip[0] {
			t.Error("another key of gossip")
		}
		// The new member is one at once, and a node can admit the next.
		me := must[*Credentials](t)(NewCredentials(CredentialsConfig{Key: j.Key, Authority: a.Authority, Certificate: a.Certificate, Now: at(0)}))
		_, clientErr, serverErr := meet(t, me.Client(ProtocolAPI, c.node.Identity().Node), c.node.Server(ProtocolAPI))
		wantReason(t, errors.Join(clientErr, serverErr), "")
		if role == RoleNode {
			next := &testCluster{bundle: Bundle{Authority: a.Authority, Gossip: a.Gossip}, node: me, grants: c.grants, door: c.door}
			if _, s, err := next.join(t, Joining{Token: j.Token, Key: NewKey(), Now: at(0)}); err != nil || s.err != nil {
				t.Error("the new node does not admit:", err, s.err)
			}
		}
	}
}

func TestJoinRefusals(t *testing.T) {
	taken := mesh.Refuse(mesh.NameTaken, "choose another", "somebody has the name")
	for name, c := range map[string]struct {
		prepare func(*testCluster, *Joining)
		want    mesh.Reason
	}{
		"as is":                 {func(*testCluster, *Joining) {}, ""},
		"a token that is not":   {func(c *testCluster, j *Joining) { delete(c.grants, j.Token.ID) }, TokenUnknown},
		"another secret":        {func(_ *testCluster, j *Joining) { j.Token.secret[0] ^= 1 }, TokenUnknown},
		"another token's":       {func(c *testCluster, j *Joining) { j.Token.ID = c.other(j.Token.ID) }, TokenUnknown},
		"an ID of no token":     {func(_ *testCluster, j *Joining) { j.Token.ID = "\n" }, TokenUnknown},
		"expired":               {func(c *testCluster, _ *Joining) { c.door.Now = at(25 * time.Hour) }, TokenExpired},
		"expired, other secret": {func(c *testCluster, j *Joining) { c.door.Now = at(25 * time.Hour); j.Token.secret[0] ^= 1 }, TokenUnknown},
		"taken back": {func(c *testCluster, j *Joining) {
			g := c.grants[j.Token.ID]
			g.Revoked = true
			c.grants[j.Token.ID] = g
		}, TokenRevoked},
		"for more than it is": {func(c *testCluster, j *Joining) {
			j.Token = c.viewer
			j.Token.Role = RoleNode
		}, WrongRole},
		"an operator's for a node": {func(_ *testCluster, j *Joining) { j.Token.Role, j.Name = RoleOperator, "x" }, WrongRole},
		"no name":                  {func(c *testCluster, j *Joining) { j.Token = c.viewer }, mesh.BadName},
		"a name of rules":          {func(c *testCluster, j *Joining) { j.Token, j.Name = c.viewer, "x;\ny" }, mesh.BadName},
		"refused by the cluster":   {func(c *testCluster, _ *Joining) { c.door.Admit = func(Identity) error { return taken } }, mesh.NameTaken},
		"of another cluster":       {func(_ *testCluster, j *Joining) { j.Token.Pin[31] ^= 1 }, WrongCluster},
		"the node removed one since": {func(c *testCluster, _ *Joining) {
			c.bundle, _ = c.bundle.Next(noon())
			_, _ = c.node.Replace(c.bundle.Authority)
		}, WrongCluster},
		"the node is just removing one":  {func(c *testCluster, _ *Joining) { c.bundle, _ = c.bundle.Next(noon()) }, TokenOutdated},
		"a key that is not the signer's": {func(_ *testCluster, j *Joining) { copy(j.Key.private[KeySize:], make([]byte, KeySize)) }, BadSignature},
		"a clock years behind":           {func(_ *testCluster, j *Joining) { j.Now = func() time.Time { return time.Unix(0, 0) } }, ""},
		"a clock years ahead":            {func(_ *testCluster, j *Joining) { j.Now = at(10 * 365 * 24 * time.Hour) }, CertExpired},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := newTestCluster(t)
			j := Joining{Token: cluster.token(t, RoleNode), Key: NewKey(), Now: at(0)}
			cluster.token(t, RoleNode)
			cluster.viewer = cluster.token(t, RoleViewer)
			c.prepare(cluster, &j)
			a, s, err := cluster.join(t, j)
			wantReason(t, err, c.want)
			if (a != nil) != (c.want == "") {
				t.Errorf("got %v", a)
			}
			local := c.want == WrongCluster || c.want == CertExpired
			if got := mesh.ReasonOf(s.err); !local && got != c.want || (s.err == nil) != (c.want == "") {
				t.Errorf("the door said %v", s.err)
			}
		})
	}
}

// other is the ID of a token that is not id.
func (c *testCluster) other(id TokenID) TokenID {
	for o := range c.grants {
		if o != id {
			return o
		}
	}
	return id
}

// A member of the cluster that is one of its servers keeps what a joining machine sends,
// to use it as its own at another node.
func TestProofIsOfNoUseElsewhere(t *testing.T) {
	c := newTestCluster(t)
	token := c.token(t, RoleNode)
	client, server := loopback(t)
	kept := make(chan [2][]byte, 1)
	go func() {
		s := tls.Server(server, member(t, c.bundle.Authority, 2).Server(ProtocolJoin))
		request, _ := readMessage(s, requestLimit)
		proofs, _ := readMessage(s, proofsSize)
		s.Close()
		kept <- [2][]byte{request, proofs}
	}()
	if _, err := Join(t.Context(), client, Joining{Token: token, Key: NewKey(), Now: at(0)}); err == nil {
		t.Fatal("admitted by nobody")
	}
	heard := <-kept
	if len(heard[1]) != proofsSize {
		t.Fatalf("heard %d bytes", len(heard[1]))
	}
	client, server = loopback(t)
	done := c.open(t.Context(), server)
	session := tls.Client(client, member(t, c.bundle.Authority, 2).Client(ProtocolJoin, ""))
	for _, m := range heard {
		if err := writeMessage(session, m); err != nil {
			t.Fatal(err)
		}
	}
	a, err := parseAnswer(must[[]byte](t)(readMessage(session, answerLimit)))
	if err != nil || a.Refusal == nil || a.Refusal.Reason != TokenUnknown || a.Bundle != nil {
		t.Errorf("answered %+v, %v", a, err)
	}
	wantReason(t, (<-done).err, TokenUnknown)
	if strings.Contains(string(heard[0]), "secret") || strings.Contains(string(heard[0]), encoding().EncodeToString(token.secret[:])) {
		t.Error("the secret was sent")
	}
}

// A bad node cannot hand out what was not asked for.
func TestJoinJudgesTheAnswer(t *testing.T) {
	c := newTestCluster(t)
	key := testKey(4)
	issue := func(a *Authority, role Role, name string, k Key) []byte {
		return must[[]byte](t)(a.Issue(role, name, k.Public(), noon()))
	}
	other := must[Bundle](t)(NewBundle(noon()))
	good := issue(c.bundle.Authority, RoleNode, "", key)
	w, w2 := must[wireBundle](t)(c.bundle.wire()), must[wireBundle](t)(other.wire())
	for name, k := range map[string]struct {
		answer any
		want   mesh.Reason
	}{
		"good":                     {wireAnswer{Version: 1, Certificate: good, Bundle: &w}, ""},
		"of a version to come":     {wireAnswer{Version: 2, Certificate: good, Bundle: &w}, NewerVersion},
		"empty":                    {wireAnswer{Version: 1}, BadMessage},
		"no JSON":                  {"hello", BadMessage},
		"no bundle":                {wireAnswer{Version: 1, Certificate: good}, BadMessage},
		"another cluster's bundle": {wireAnswer{Version: 1, Certificate: good, Bundle: &w2}, BadCertificate},
		"another's certificate":    {wireAnswer{Version: 1, Certificate: issue(c.bundle.Authority, RoleNode, "", testKey(5)), Bundle: &w}, BadCertificate},
		"another role":             {wireAnswer{Version: 1, Certificate: issue(c.bundle.Authority, RoleOperator, "x", key), Bundle: &w}, BadCertificate},
		"of another CA":            {wireAnswer{Version: 1, Certificate: issue(other.Authority, RoleNode, "", key), Bundle: &w}, WrongCluster},
		"a refusal for a terminal": {wireAnswer{Version: 1, Refusal: &wireRefusal{Reason: "X\x1b[2J", Why: strings.Repeat("y\n", 5000), Do: "é"}}, "X?[2J"},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := loopback(t)
			done := make(chan error, 1)
			go func() {
				s := tls.Server(server, c.node.Server(ProtocolJoin))
				_, err1 := readMessage(s, requestLimit)
				_, err2 := readMessage(s, proofsSize)
				data, err3 := json.Marshal(k.answer)
				done <- errors.Join(err1, err2, err3, writeMessage(s, data))
			}()
			_, err := Join(t.Context(), client, Joining{Token: c.token(t, RoleNode), Key: key, Now: at(0)})
			wantReason(t, err, k.want)
			wantReason(t, <-done, "")
		})
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add("\x00\x00\x00\x02ab")
	f.Add("\x40\x00\x00\x00")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := readMessage(strings.NewReader(text), 100)
		if err == nil && (len(m) > 100 || !strings.HasPrefix(text[4:], string(m))) {
			t.Fatalf("%q holds %q", text, m)
		}
	})
}

func FuzzJoinRequest(f *testing.F) {
	key := testKey(1).Public()
	f.Add(must[[]byte](f)(json.Marshal(wireRequest{Version: 1, Token: "00", TokenKey: key[:], Key: key[:], Role: RoleNode})))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if err == nil && (len(r.Key) != KeySize || len(r.TokenKey) != KeySize || r.Version != 1) {
			t.Fatalf("accepted %+v", r)
		}
	})
}

func FuzzJoinAnswer(f *testing.F) {
	old, key, bundle := readFormat1(f)
	j := Joining{Token: JoinToken{Role: RoleNode}, Key: key, Now: at(0)}
	w := must[wireBundle](f)(bundle.wire())
	f.Add(must[[]byte](f)(json.Marshal(wireAnswer{Version: 1, Certificate: old.Certificate, Bundle: &w})))
	f.Add([]byte(`{"v":1,"refusal":{"reason":"X","why":"y","do":"z"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parseAnswer(data)
		if err != nil {
			return
		}
		if a.Refusal != nil {
			if text := a.Refusal.err().Error(); len(text) > 2*textLimit+2 || strings.ContainsAny(text, "\n\x1b") {
				t.Fatalf("shown: %q", text)
			}
			return
		}
		if got, err := a.admission(bundle.Authority, j); err == nil && got.Authority.Pin() != bundle.Authority.Pin() {
			t.Fatalf("believes %v", got.Authority)
		}
	})
}
