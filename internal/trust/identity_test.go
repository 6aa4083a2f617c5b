package trust

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestIssueAndIdentify(t *testing.T) {
	a, k := testAuthority(t), testKey(1)
	for role, want := range map[Role]string{
		RoleNode: "node " + string(k.ID()), RoleOperator: "operator alice", RoleViewer: "viewer alice",
	} {
		der := must[[]byte](t)(a.Issue(role, "alice", k.Public(), noon()))
		id := must[Identity](t)(a.Identify(der, noon()))
		if id.String() != want || id.Role != role || id.Key != k.Public() || id.Generation != 1 || !id.NotAfter.Equal(noon().Add(lifetime(role))) {
			t.Errorf("got %+v", id)
		}
	}
	_, err := a.Issue(RoleOperator, "a\nb", k.Public(), noon())
	wantReason(t, err, mesh.BadName)
	_, err = a.Issue("root", "alice", k.Public(), noon())
	wantReason(t, err, WrongRole)
}

func TestIdentifyByTime(t *testing.T) {
	a := testAuthority(t)
	made := noon().Add(10 * 24 * time.Hour)
	der := must[[]byte](t)(a.Issue(RoleNode, "", testKey(1).Public(), made))
	for name, c := range map[string]struct {
		now  time.Time
		want mesh.Reason
	}{
		"at once":                      {made, ""},
		"a clock 24 h behind":          {made.Add(-Tolerance), ""},
		"a clock further behind":       {made.Add(-Tolerance - backdated - time.Second), CertOfFuture},
		"at its end":                   {made.Add(NodeLifetime), ""},
		"a clock 24 h ahead":           {made.Add(NodeLifetime + Tolerance), ""},
		"a clock further ahead":        {made.Add(NodeLifetime + Tolerance + time.Second), CertExpired},
		"years later":                  {made.AddDate(20, 0, 0), CertExpired},
		"a clock that was never set":   {time.Unix(0, 0), ""},
		"a clock of before the CA":     {noon().Add(-backdated - time.Second), ""},
		"a clock of the CA's making":   {noon(), CertOfFuture},
		"the end of all certificates":  {time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), CertExpired},
		"after that, and still a time": {time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC), CertExpired},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Identify(der, c.now)
			wantReason(t, err, c.want)
		})
	}
}

func TestIdentifyRefuses(t *testing.T) {
	a, k := testAuthority(t), testKey(1).Public()
	other, next := testAuthority(t), must[*Authority](t)(a.Next(noon()))
	of := func(edit func(*x509.Certificate)) []byte { return handmade(t, a, k, edit) }
	named := func(u ...*url.URL) []byte { return of(func(c *x509.Certificate) { c.URIs = u }) }
	issued := func(by *Authority) []byte { return must[[]byte](t)(by.Issue(RoleNode, "", k, noon())) }
	if _, err := a.Identify(of(func(*x509.Certificate) {}), noon()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		der  []byte
		want mesh.Reason
	}{
		"another cluster's":         {issued(other), WrongCluster},
		"of the next generation":    {issued(next), WrongCluster},
		"the CA's own":              {a.Certificate(), BadCertificate},
		"another node's name":       {named(nameURI("node", string(testKey(2).ID()))), BadCertificate},
		"no name":                   {named(), BadCertificate},
		"two names":                 {named(nameURI("node", string(k.ID())), nameURI("operator", "alice")), BadCertificate},
		"no role":                   {named(nameURI("root", "alice")), WrongRole},
		"a role in capitals":        {named(nameURI("Node", string(k.ID()))), WrongRole},
		"an operator named by rule": {named(nameURI("operator", "a;b")), mesh.BadName},
		"an operator of no name":    {named(nameURI("operator", "")), BadCertificate},
		"a path":                    {named(nameURI("operator", "a/b")), BadCertificate},
		"a port":                    {named(nameURI("node:1", string(k.ID()))), WrongRole},
		"a user":                    {named(&url.URL{Scheme: uriScheme, User: url.User("x"), Host: "node", Path: "/" + string(k.ID())}), BadCertificate},
		"a fragment":                {named(&url.URL{Scheme: uriScheme, Host: "node", Path: "/" + string(k.ID()), Fragment: "x"}), BadCertificate},
		"an address":                {of(func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }), BadCertificate},
		"a CA":                      {of(func(c *x509.Certificate) { c.IsCA = true }), BadCertificate},
		"for mail alone":            {of(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }), BadCertificate},
		"an end before its begin":   {of(func(c *x509.Certificate) { c.NotAfter = noon().Add(-time.Hour) }), BadCertificate},
		"an extension that is a must": {of(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), BadCertificate},
		"an extension that is none": {of(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}}}
		}), ""},
		"nothing": {nil, BadCertificate},
		"large":   {make([]byte, 1<<20), BadCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := a.Identify(c.der, noon())
			wantReason(t, err, c.want)
		})
	}
}

// A member may not make members: only the CA's key does, and its certificate alone counts.
func TestMemberCannotIssue(t *testing.T) {
	a, k := testAuthority(t), testKey(1)
	cert := must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(a.Issue(RoleNode, "", k.Public(), noon()))))
	sham := &Authority{cert: cert, key: k, generation: 1}
	der := must[[]byte](t)(sham.Issue(RoleNode, "", testKey(2).Public(), noon()))
	_, err := a.Identify(der, noon())
	wantReason(t, err, WrongCluster)
}

// The points of small order, in all their encodings: whoever has such a "key" could have
// every later removal of a node fail.
func TestWeakKeys(t *testing.T) {
	a := testAuthority(t)
	for _, text := range []string{
		"0100000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000080",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0000000000000000000000000000000000000000000000000000000000000080",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
	} {
		k := PublicKey(must[[]byte](t)(hex.DecodeString(text)))
		_, err := Seal(k, "x", []byte("x"))
		wantReason(t, err, BadSeal)
		_, err = a.Issue(RoleNode, "", k, noon())
		wantReason(t, err, BadCertificate)
		_, err = a.Identify(handmade(t, a, k, func(*x509.Certificate) {}), noon())
		wantReason(t, err, BadCertificate)
	}
}

// A node whose clock is years behind makes itself a certificate that others accept.
func TestIssueByAWrongClock(t *testing.T) {
	a := testAuthority(t)
	der := must[[]byte](t)(a.Issue(RoleNode, "", testKey(1).Public(), time.Unix(0, 0)))
	if _, err := a.Identify(der, noon().Add(time.Hour)); err != nil {
		t.Error(err)
	}
}

func TestRole(t *testing.T) {
	all := append(roles(), "root", "")
	for i, have := range all {
		for j, need := range all {
			want := i < 3 && j < 3 && i <= j
			if have.May(need) != want {
				t.Errorf("%s may what needs %s: %v", have, need, !want)
			}
		}
		_, err := ParseRole(string(have))
		if (err == nil) != (i < 3) {
			t.Errorf("ParseRole(%q): %v", have, err)
		}
	}
}

func FuzzIdentify(f *testing.F) {
	old, _, bundle := readFormat1(f)
	a := bundle.Authority
	f.Add(old.Certificate)
	f.Add(old.Operator)
	f.Add(old.Authority)
	f.Fuzz(func(t *testing.T, der []byte) {
		if cert, err := x509.ParseCertificate(der); err == nil {
			id, err := readIdentity(cert) // what a signature would keep a fuzzer from
			if err == nil && id.Role == RoleNode && id.Node != id.Key.ID() {
				t.Fatalf("%v has the key of %s", id, id.Key.ID())
			}
		}
		if id, err := a.Identify(der, noon()); err == nil && id.Generation != 1 {
			t.Fatalf("accepted %+v", id)
		}
	})
}
