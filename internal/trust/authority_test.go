package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"math"
	"net/url"
	"testing"
	"time"
)

func TestAuthorityRoundTrip(t *testing.T) {
	a := testAuthority(t)
	public := must[*Authority](t)(ParseAuthority(a.Certificate()))
	if public.Pin() != a.Pin() || public.Generation() != 1 || public.CanIssue() || a.Public().CanIssue() {
		t.Errorf("read as %v from %v", public, a)
	}
	again := must[*Authority](t)(RestoreAuthority(a.Certificate(), a.key.Seed()))
	if !again.CanIssue() || again.Compare(a) != 0 {
		t.Errorf("restored as %v from %v", again, a)
	}
	_, err := RestoreAuthority(a.Certificate(), testKey(1).Seed())
	wantReason(t, err, BadCertificate)
	_, err = RestoreAuthority(a.Certificate(), nil)
	wantReason(t, err, BadMessage)
	_, err = public.Issue(RoleNode, "", testKey(1).Public(), noon())
	wantReason(t, err, NotIssuer)
}

// Whatever is made on two sides of a partition, all nodes end with the same CA.
func TestAuthorityOrder(t *testing.T) {
	a := testAuthority(t)
	left, right := must[*Authority](t)(a.Next(noon())), must[*Authority](t)(a.Next(noon()))
	later := must[*Authority](t)(left.Next(noon()))
	if left.Generation() != 2 || later.Generation() != 3 {
		t.Errorf("generations %d, %d", left.Generation(), later.Generation())
	}
	if left.Compare(right) == 0 || left.Compare(right) != -right.Compare(left) {
		t.Error("two of one generation have no order")
	}
	for _, former := range []*Authority{a, left, right} {
		if later.Compare(former) != 1 || former.Compare(later) != -1 {
			t.Errorf("%v does not come after %v", later, former)
		}
	}
	last := must[*Authority](t)(newAuthority(math.MaxUint32, noon()))
	if _, err := last.Next(noon()); err == nil {
		t.Error("the last generation has a next")
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	a := testAuthority(t)
	self := func(edit func(*x509.Certificate)) []byte {
		key := testKey(9)
		public := key.Public()
		template := &x509.Certificate{
			URIs: []*url.URL{nameURI(hostAuthority, "2")}, NotBefore: noon(), NotAfter: noon().Add(time.Hour),
			KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
		}
		edit(template)
		return must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, ed25519.PublicKey(public[:]), key.private))
	}
	named := func(u *url.URL) []byte { return self(func(c *x509.Certificate) { c.URIs = []*url.URL{u} }) }
	if _, err := ParseAuthority(self(func(*x509.Certificate) {})); err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"nothing":            nil,
		"a member's":         must[[]byte](t)(a.Issue(RoleNode, "", testKey(1).Public(), noon())),
		"cut":                a.Certificate()[:100],
		"with a tail":        append(append([]byte{}, a.Certificate()...), 0),
		"large":              make([]byte, 1<<20),
		"no CA":              self(func(c *x509.Certificate) { c.IsCA = false }),
		"may not sign":       self(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }),
		"no name":            self(func(c *x509.Certificate) { c.URIs = nil }),
		"a node's name":      named(nameURI("node", "2")),
		"generation 0":       named(nameURI(hostAuthority, "0")),
		"generation 02":      named(nameURI(hostAuthority, "02")),
		"generation -1":      named(nameURI(hostAuthority, "-1")),
		"generation 2^32":    named(nameURI(hostAuthority, "4294967296")),
		"two generations":    named(nameURI(hostAuthority, "2/3")),
		"generation with ?":  named(&url.URL{Scheme: uriScheme, Host: hostAuthority, Path: "/2", RawQuery: "x=1"}),
		"of another program": named(&url.URL{Scheme: "spiffe", Host: hostAuthority, Path: "/2"}),
		"host name too":      self(func(c *x509.Certificate) { c.DNSNames = []string{"example.org"} }),
		"signed by another": handmade(t, a, testKey(1).Public(), func(c *x509.Certificate) {
			c.IsCA = true
			c.KeyUsage = x509.KeyUsageCertSign
			c.URIs[0] = nameURI(hostAuthority, "2")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseAuthority(der)
			wantReason(t, err, BadCertificate)
		})
	}
}

func FuzzParseAuthority(f *testing.F) {
	old, _, _ := readFormat1(f)
	f.Add(old.Authority)
	f.Add(old.Certificate)
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := ParseAuthority(der)
		if err == nil && (got.Generation() == 0 || got.CanIssue() || got.cert.CheckSignatureFrom(got.cert) != nil) {
			t.Fatalf("accepted %v", got)
		}
	})
}
