package trust

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
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

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	c := &testCluster{bundle: must[Bundle](t)(NewBundle(noon())), grants: map[TokenID]Grant{}}
	c.node = member(t, c.bundle.Authority, 1)
	c.door = &Door{
		Grant:  func(id TokenID) (Grant, bool) { g, ok := c.grants[id]; return g, ok },
		Bundle: func() Bundle { return c.bundle },
		Now:    at(time.Minute),
	}
	return c
}

func (c *testCluster) token(t testing.TB, role Role) JoinToken {
	t.Helper()
	token := testToken(t, c.bundle.Authority, role)
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
		id, err := c.door.Serve(ctx, tls.Server(conn, c.node.Server(ProtocolJoin, ProtocolSync)))
		conn.Close()
		done <- served{id, err}
	}()
	return done
}

func (c *testCluster) join(t testing.TB, j Joining) (*Admission, error, served) {
	t.Helper()
	client, server := loopback(t)
	done := c.open(t.Context(), server)
	a, err := Join(t.Context(), client, j)
	client.Close()
	return a, err, <-done
}

func TestJoin(t *testing.T) {
	c := newTestCluster(t)
	for _, role := range roles() {
		j := Joining{Token: c.token(t, role), Key: NewKey(), Now: at(0)}
		if role != RoleNode {
			j.Name = "alice"
		}
		a, err, s := c.join(t, j)
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
			if _, err, s := next.join(t, Joining{Token: j.Token, Key: NewKey(), Now: at(0)}); err != nil || s.err != nil {
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
		"the node removed one since": {func(c *testCluster, j *Joining) {
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
			a, err, s := cluster.join(t, j)
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

// speak sends the door what it likes over TLS and gives the answer and the door's word.
func (c *testCluster) speak(t *testing.T, say func(*tls.Conn) error) (wireAnswer, served) {
	t.Helper()
	client, server := loopback(t)
	done := c.open(t.Context(), server)
	session := tls.Client(client, c.node.Client(ProtocolJoin, ""))
	if err := say(session); err != nil {
		t.Fatal(err)
	}
	var answer wireAnswer
	if data, err := readMessage(session, answerLimit); err == nil {
		answer, _ = parseAnswer(data)
	}
	client.Close()
	return answer, <-done
}

func TestDoorBoundsWhatItReads(t *testing.T) {
	c := newTestCluster(t)
	request := func(edit func(map[string]any)) []byte {
		key := testKey(5).Public()
		m := map[string]any{"v": 1, "token": "0011223344556677", "tokenKey": key[:], "key": key[:], "role": "node"}
		edit(m)
		data, _ := json.Marshal(m)
		return data
	}
	both := func(request, proofs []byte) func(*tls.Conn) error {
		return func(s *tls.Conn) error { return errors.Join(writeMessage(s, request), writeMessage(s, proofs)) }
	}
	proofs := make([]byte, proofsSize)
	for name, say := range map[string]struct {
		say  func(*tls.Conn) error
		want mesh.Reason
	}{
		"1 GiB announced":     {func(s *tls.Conn) error { _, err := s.Write([]byte{0x40, 0, 0, 0}); return err }, BadMessage},
		"4 GiB announced":     {func(s *tls.Conn) error { _, err := s.Write([]byte{0xff, 0xff, 0xff, 0xff}); return err }, BadMessage},
		"no JSON":             {both([]byte("hello"), proofs), BadMessage},
		"nothing":             {both(nil, nil), BadMessage},
		"a version to come":   {both(request(func(m map[string]any) { m["v"] = 2 }), proofs), NewerVersion},
		"a field to come":     {both(request(func(m map[string]any) { m["later"] = 2 }), proofs), TokenUnknown},
		"a short key":         {both(request(func(m map[string]any) { m["key"] = []byte{1} }), proofs), BadMessage},
		"a short token key":   {both(request(func(m map[string]any) { m["tokenKey"] = nil }), proofs), BadMessage},
		"a role to come":      {both(request(func(m map[string]any) { m["role"] = "god" }), proofs), WrongRole},
		"one signature":       {both(request(func(map[string]any) {}), proofs[1:]), BadMessage},
		"long signatures":     {both(request(func(map[string]any) {}), make([]byte, proofsSize+1)), BadMessage},
		"signatures of zeros": {both(request(func(map[string]any) {}), proofs), TokenUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			answer, s := c.speak(t, say.say)
			wantReason(t, s.err, say.want)
			if answer.Refusal == nil || answer.Refusal.Reason != say.want || answer.Bundle != nil {
				t.Errorf("answered %+v", answer)
			}
		})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		_, err := readMessage(strings.NewReader("\x40\x00\x00\x00"), requestLimit)
		wantReason(t, err, BadMessage)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d bytes for what was only announced", got)
	}
}

// A door opens to those who called for it, and not to a connection for records.
func TestDoorIsNoOtherProtocol(t *testing.T) {
	c := newTestCluster(t)
	client, server := loopback(t)
	done := c.open(t.Context(), server)
	session := tls.Client(client, member(t, c.bundle.Authority, 2).Client(ProtocolSync, ""))
	if err := session.Handshake(); err != nil {
		t.Fatal(err)
	}
	wantReason(t, (<-done).err, NoProtocol)
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

// Who says nothing, on either side and at any point, costs JoinTimeout and no goroutine.
func TestJoinEndsWithSilence(t *testing.T) {
	for name, stage := range map[string]func(t *testing.T, c *testCluster) error{
		"a server that says nothing": func(t *testing.T, c *testCluster) error {
			client, server := net.Pipe()
			defer server.Close()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			_, err := Join(t.Context(), client, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)})
			return err
		},
		"a server that does not answer": func(t *testing.T, c *testCluster) error {
			client, server := net.Pipe()
			defer server.Close()
			go func() { _, _ = io.Copy(io.Discard, tls.Server(server, c.node.Server(ProtocolJoin))) }()
			_, err := Join(t.Context(), client, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)})
			return err
		},
		"a client that says nothing": func(t *testing.T, c *testCluster) error {
			client, server := net.Pipe()
			defer client.Close()
			return (<-c.open(t.Context(), server)).err
		},
		"a client that asks for nothing": func(t *testing.T, c *testCluster) error {
			client, server := net.Pipe()
			defer client.Close()
			done := c.open(t.Context(), server)
			if err := tls.Client(client, c.node.Client(ProtocolJoin, "")).Handshake(); err != nil {
				t.Error(err)
			}
			return (<-done).err
		},
		"a client that trickles": func(t *testing.T, c *testCluster) error {
			client, server := net.Pipe()
			defer client.Close()
			done := c.open(t.Context(), server)
			session := tls.Client(client, c.node.Client(ProtocolJoin, ""))
			trickled := make(chan struct{})
			go func() {
				defer close(trickled)
				_, _ = session.Write(binary.BigEndian.AppendUint32(nil, requestLimit))
				for range requestLimit {
					if _, err := session.Write([]byte{' '}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			t.Cleanup(func() { <-trickled })
			return (<-done).err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if err := stage(t, newTestCluster(t)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("ended with %v", err)
				}
				if got := time.Since(began); got != JoinTimeout {
					t.Errorf("ended after %v", got)
				}
			})
		})
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t)
		ctx, cancel := context.WithCancel(t.Context())
		client, server := net.Pipe()
		defer client.Close()
		done := c.open(ctx, server)
		time.AfterFunc(time.Second, cancel)
		if err := (<-done).err; !errors.Is(err, context.Canceled) {
			t.Errorf("the door: %v", err)
		}
		client2, server2 := net.Pipe()
		defer server2.Close()
		if _, err := Join(ctx, client2, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)}); !errors.Is(err, context.Canceled) {
			t.Errorf("the client: %v", err)
		}
	})
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
	c := newTestCluster(f)
	j := Joining{Token: c.token(f, RoleNode), Key: testKey(4), Now: at(0)}
	w := must[wireBundle](f)(c.bundle.wire())
	der := must[[]byte](f)(c.bundle.Authority.Issue(RoleNode, "", j.Key.Public(), noon()))
	f.Add(must[[]byte](f)(json.Marshal(wireAnswer{Version: 1, Certificate: der, Bundle: &w})))
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
		if got, err := a.admission(c.bundle.Authority, j); err == nil && got.Authority.Pin() != c.bundle.Authority.Pin() {
			t.Fatalf("believes %v", got.Authority)
		}
	})
}
