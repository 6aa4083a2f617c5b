package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// noon is when the tests' cluster is made.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func at(d time.Duration) func() time.Time { return func() time.Time { return noon().Add(d) } }

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

// wantReason fails unless err is a refusal for that reason, fit for one line of a log.
func wantReason(tb testing.TB, err error, want mesh.Reason) {
	tb.Helper()
	if mesh.ReasonOf(err) != want || (err == nil) != (want == "") {
		tb.Fatalf("got %v, want reason %q", err, want)
	}
	if err != nil && (len(err.Error()) > 700 || strings.ContainsAny(err.Error(), "\n\x1b")) {
		tb.Fatalf("this goes into a log: %q", err)
	}
}

// testKey is a key of its number, the same in every run.
func testKey(n byte) Key { return keyOf([KeySize]byte{n, 1}) }

func testAuthority(tb testing.TB) *Authority {
	tb.Helper()
	return must[*Authority](tb)(NewAuthority(noon()))
}

// handmade is a certificate that the CA's key signs and Issue would not make.
func handmade(tb testing.TB, a *Authority, key PublicKey, edit func(*x509.Certificate)) []byte {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7),
		URIs:         []*url.URL{nameURI("node", string(key.ID()))},
		NotBefore:    noon(), NotAfter: noon().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages(RoleNode),
		BasicConstraintsValid: true,
	}
	edit(template)
	return must[[]byte](tb)(x509.CreateCertificate(rand.Reader, template, a.cert, ed25519.PublicKey(key[:]), a.key.private))
}

// member are the credentials of a node of a.
func member(tb testing.TB, a *Authority, n byte) *Credentials {
	tb.Helper()
	return must[*Credentials](tb)(NewCredentials(CredentialsConfig{Key: testKey(n), Authority: a, Now: at(0)}))
}

// guest are the credentials of an operator or viewer of a.
func guest(tb testing.TB, a *Authority, role Role, n byte) *Credentials {
	tb.Helper()
	der := must[[]byte](tb)(a.Issue(role, "alice", testKey(n).Public(), noon()))
	return must[*Credentials](tb)(NewCredentials(CredentialsConfig{Key: testKey(n), Authority: a.Public(), Certificate: der, Now: at(0)}))
}

// hides fails where the text of v in any form holds a part of the secret.
func hides(t *testing.T, v any, secret []byte) {
	t.Helper()
	text := fmt.Sprintf("%v %s %+v %#v %q", v, v, v, v, v)
	for _, part := range []string{fmt.Sprintf("%x", secret[:6]), fmt.Sprintf("%d %d %d", secret[0], secret[1], secret[2]), fmt.Sprintf("%#x, %#x", secret[0], secret[1])} {
		if strings.Contains(text, part) {
			t.Errorf("a secret was printed: %s", text)
		}
	}
}
