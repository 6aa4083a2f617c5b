package agent

import (
	"context"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type accessServer struct {
	sluicev1.UnimplementedAccessServiceServer
	*api
}

// RenewCertificate makes another certificate for who calls, by the CA that believes it at this
// moment: it was let in by another one, maybe.
func (s *accessServer) RenewCertificate(ctx context.Context, _ *sluicev1.RenewCertificateRequest) (*sluicev1.RenewCertificateResponse, error) {
	id, ok := callerOf(ctx)
	if !ok {
		return nil, mesh.Refuse(NoCertificate, "call over TCP", "there is no certificate on the unix socket")
	}
	if id.Role == trust.RoleNode {
		return nil, mesh.Refuse(NotAllowed, "leave it to the node", "a node's certificate is renewed by the node itself")
	}
	creds, m := s.cluster.believed()
	if m == nil {
		return nil, noCluster()
	}
	state, err := sessionOf(ctx)
	if err != nil {
		return nil, err
	}
	if id, err = creds.Peer(state); mesh.ReasonOf(err) == trust.WrongCluster {
		return nil, mesh.Refuse(trust.WrongCluster, doLogin, "a node was removed meanwhile, which ends all logins")
	} else if err != nil {
		return nil, err
	}
	der, err := m.bundle.Authority.Issue(id.Role, id.Name, id.Key, s.cluster.now())
	if err != nil {
		return nil, err
	}
	s.config.Log.Info("a login was renewed", "caller", id)
	return &sluicev1.RenewCertificateResponse{Certificate: der}, nil
}

const doLogin = "make a token on a node with 'sluice token create --role operator', or viewer, and run 'sluice login ADDR:PORT --token TOKEN'"

// maySet refuses a caller over TCP that would give away more than it has.
func maySet(ctx context.Context, role trust.Role) error {
	if id, ok := callerOf(ctx); ok && !id.Role.May(role) {
		return mesh.Refuse(NotAllowed, "give --role operator or viewer, or run it on a node", "%s makes no tokens for role %s", id, role)
	}
	return nil
}
