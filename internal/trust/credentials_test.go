package trust

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCredentialsKeepACertificate(t *testing.T) {
	a := testAuthority(t)
	var kept [][]byte
	open := func(a *Authority, key Key, der []byte, now func() time.Time) (*Credentials, error) {
		return NewCredentials(CredentialsConfig{Key: key, Authority: a, Certificate: der, Now: now, Renewed: func(der []byte) { kept = append(kept, der) }})
	}
	c := must[*Credentials](t)(open(a, testKey(1), nil, at(0)))
	if len(kept) != 1 || string(kept[0]) != string(c.Certificate()) || c.Identity().Node != testKey(1).ID() {
		t.Fatalf("made %d certificates, of %v", len(kept), c.Identity())
	}
	der := kept[0]
	for name, c := range map[string]struct {
		authority *Authority
		der       []byte
		now       time.Duration
		anew      bool
	}{
		"in its time":             {a, der, time.Hour, false},
		"before its second half":  {a, der, NodeLifetime/2 - 2*time.Hour, false},
		"after two thirds":        {a, der, NodeLifetime * 2 / 3, true},
		"long over":               {a, der, 10 * NodeLifetime, true},
		"of a clock that was far": {a, must[[]byte](t)(a.Issue(RoleNode, "", testKey(1).Public(), noon().Add(Tolerance))), 0, true},
		"clock not set":           {a, der, -30 * 365 * 24 * time.Hour, false},
		"of a former generation":  {must[*Authority](t)(a.Next(noon())), der, 0, true},
		"damaged":                 {a, der[:40], 0, true},
		"another node's":          {a, must[[]byte](t)(a.Issue(RoleNode, "", testKey(2).Public(), noon())), 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			kept = nil
			got := must[*Credentials](t)(open(c.authority, testKey(1), c.der, at(c.now)))
			if (len(kept) == 1) != c.anew || c.anew == (string(got.Certificate()) == string(c.der)) {
				t.Errorf("made %d", len(kept))
			}
			if _, err := got.Identify(got.Certificate()); err != nil {
				t.Error(err)
			}
		})
	}
	// Who cannot issue keeps what is due, and has nothing where it is of no use.
	viewer := must[[]byte](t)(a.Issue(RoleViewer, "bob", testKey(3).Public(), noon()))
	if c := must[*Credentials](t)(open(a.Public(), testKey(3), viewer, at(ClientLifetime*3/4))); string(c.Certificate()) != string(viewer) {
		t.Error("a viewer's certificate was lost")
	}
	_, err := open(a.Public(), testKey(3), viewer, at(2*ClientLifetime))
	wantReason(t, err, CertExpired)
	_, err = open(a.Public(), testKey(4), viewer, at(0))
	wantReason(t, err, BadCertificate)
}

func TestRenewAtIsSpread(t *testing.T) {
	early, late := time.Duration(1<<62), time.Duration(0)
	for i := range int64(2000) {
		cert := &x509.Certificate{NotBefore: noon(), NotAfter: noon().Add(NodeLifetime), SerialNumber: new(big.Int).Mul(big.NewInt(i), big.NewInt(0x9e3779b97f4a7c1))}
		d := renewAt(cert).Sub(noon())
		early, late = min(early, d), max(late, d)
	}
	if early < NodeLifetime/2 || late > NodeLifetime*2/3 || late-early < NodeLifetime/7 {
		t.Errorf("renewed after %v to %v of %v", early, late, NodeLifetime)
	}
}

// Through a year no moment is without a good certificate, whatever the clock does for a while.
func TestRunRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := must[*Authority](t)(NewAuthority(time.Now()))
		var step atomic.Int64
		made := 0
		c := must[*Credentials](t)(NewCredentials(CredentialsConfig{
			Key: testKey(1), Authority: a, Now: func() time.Time { return time.Now().Add(time.Duration(step.Load())) }, Renewed: func([]byte) { made++ },
		}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx, slog.New(slog.DiscardHandler)) }()
		for day := range 365 {
			time.Sleep(24*time.Hour + time.Minute)
			synctest.Wait()
			step.Store(int64(map[int]time.Duration{100: 40 * 24 * time.Hour, 200: -40 * 24 * time.Hour}[day])) // a day long, and back
			if near := day % 100; day < 100 || day > 201 || near > 1 {                                         // the others do not believe a clock that is weeks off
				if _, err := a.Identify(c.Certificate(), time.Now()); err != nil {
					t.Fatalf("day %d: %v", day, err)
				}
			}
		}
		cancel()
		<-done
		if made < 365/20 || made > 365/15+6 {
			t.Errorf("%d certificates in a year", made)
		}
	})
}

func TestReplace(t *testing.T) {
	a := testAuthority(t)
	b := must[*Authority](t)(a.Next(noon()))
	c := must[*Authority](t)(b.Next(noon()))
	x := member(t, a, 1)
	old := x.Certificate()
	did, err := x.Replace(b.Public())
	wantReason(t, err, NotIssuer)
	if did || x.Authority() != a {
		t.Error("took a CA that it has no key of")
	}
	for _, s := range []struct {
		to  *Authority
		did bool
	}{{a, false}, {c, true}, {b, false}, {a, false}, {c, false}} {
		if did, err := x.Replace(s.to); did != s.did || err != nil {
			t.Errorf("to %v: %v, %v", s.to, did, err)
		}
	}
	if x.Authority() != c || x.Identity().Generation != 3 {
		t.Errorf("believes %v as %+v", x.Authority(), x.Identity())
	}
	_, err = x.Identify(old)
	wantReason(t, err, WrongCluster)
}

// Connections are made while the CA is replaced: each is of one generation on both sides
// or refused, and none of a mixture. The race detector watches.
func TestReplaceWhileConnecting(t *testing.T) {
	generations := []*Authority{testAuthority(t)}
	for range 5 {
		generations = append(generations, must[*Authority](t)(generations[len(generations)-1].Next(noon())))
	}
	x, y := member(t, generations[0], 1), member(t, generations[0], 2)
	accept := y.Server(ProtocolSync)
	done := make(chan error, 1)
	go func() {
		var err error
		for _, g := range generations[1:] {
			for _, c := range []*Credentials{x, y} {
				time.Sleep(2 * time.Millisecond)
				_, one := c.Replace(g)
				_, two := c.Renew()
				err = errors.Join(err, one, two)
			}
		}
		done <- err
	}()
	met := 0
	for range 60 {
		s, clientErr, serverErr := meet(t, x.Client(ProtocolSync, ""), accept)
		if clientErr != nil || serverErr != nil {
			continue
		}
		met++
		if id, err := y.Peer(s.ConnectionState()); err == nil && id.Node != testKey(1).ID() {
			t.Errorf("met %v", id)
		}
	}
	if err := <-done; err != nil || met == 0 {
		t.Errorf("met %d times, %v", met, err)
	}
	_, clientErr, serverErr := meet(t, x.Client(ProtocolSync, ""), accept)
	wantReason(t, errors.Join(clientErr, serverErr), "")
	if x.Authority() != generations[5] || y.Authority() != generations[5] {
		t.Errorf("ended with %v and %v", x.Authority(), y.Authority())
	}
}
