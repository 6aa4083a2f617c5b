package trust

import (
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// The reasons of this package. Two of them say that one end's clock is wrong by
// more than Tolerance, or that the certificate was not renewed in its time.
const (
	TokenDamaged   mesh.Reason = "TokenDamaged"   // the text is no token, or not a whole one
	TokenUnknown   mesh.Reason = "TokenUnknown"   // the cluster has no such token, or the secret is not its
	TokenExpired   mesh.Reason = "TokenExpired"   // its time is over
	TokenRevoked   mesh.Reason = "TokenRevoked"   // somebody took it back
	TokenOutdated  mesh.Reason = "TokenOutdated"  // it pins a CA of before a node was removed
	WrongRole      mesh.Reason = "WrongRole"      // the certificate or token is for something else
	WrongCluster   mesh.Reason = "WrongCluster"   // the certificate is of another CA or of a former generation
	CertExpired    mesh.Reason = "CertExpired"    // its time is over
	CertOfFuture   mesh.Reason = "CertOfFuture"   // its time has not begun
	BadCertificate mesh.Reason = "BadCertificate" // it does not say what a certificate of ours says
	WrongNode      mesh.Reason = "WrongNode"      // another node answers than the one that was called
	BadSignature   mesh.Reason = "BadSignature"   // the bytes are not what this node signed
	BadSeal        mesh.Reason = "BadSeal"        // it was not sealed to this key for this purpose, or is damaged
	BadMessage     mesh.Reason = "BadMessage"     // bytes that no version of this program writes
	NewerVersion   mesh.Reason = "NewerVersion"   // bytes of a version that this program does not know
	NoProtocol     mesh.Reason = "NoProtocol"     // TLS for something that is not served here
	NotIssuer      mesh.Reason = "NotIssuer"      // who does not hold the CA's key cannot issue
)

const (
	doUpdate   = "update sluice here to the version of the other nodes"
	doNewToken = "make another with 'sluice token create' on a node of the cluster"
)

// newer refuses a version by its name.
func newer(what string, got, known int) error {
	return mesh.Refuse(NewerVersion, doUpdate, "%s has version %d, and this program knows up to %d", what, got, known)
}

// damaged refuses bytes that cannot be read.
func damaged(what, how string) error {
	return mesh.Refuse(BadMessage, "try again; if it stays, compare 'sluice version' on both nodes", "%s cannot be read: %s", what, how)
}

// textLimit is how many characters of another machine's text are shown.
const textLimit = 300

// printable makes what another machine wrote fit for one line of a log or a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), textLimit)])
	return s
}
