package agent

import (
	"context"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type tokenServer struct {
	sluicev1.UnimplementedTokenServiceServer
	*api
}

// CreateToken makes a token.
func (s *tokenServer) CreateToken(ctx context.Context, req *sluicev1.CreateTokenRequest) (*sluicev1.CreateTokenResponse, error) {
	role, ttl := trust.RoleNode, tokenUsual
	if text := req.GetRole(); text != "" {
		var err error
		if role, err = trust.ParseRole(text); err != nil {
			return nil, err
		}
	}
	if err := maySet(ctx, role); err != nil {
		return nil, err
	}
	if req.GetTtl() != nil {
		if err := req.GetTtl().CheckValid(); err != nil {
			return nil, mesh.Refuse(mesh.BadValue, "give --ttl from 1m to 8760h", "the time of the token cannot be read (%v)", err)
		}
		ttl = req.GetTtl().AsDuration()
	}
	token, err := s.cluster.makeToken(role, ttl)
	if err != nil {
		return nil, err
	}
	return &sluicev1.CreateTokenResponse{
		Token:       &sluicev1.Token{Id: string(token.ID), Role: string(token.Role), Expires: timestamppb.New(token.Expires)},
		Text:        token.Text(),
		JoinAddress: s.cluster.listens().String(), ApiAddress: s.apiAddress(),
	}, nil
}

// apiAddress is where others reach the API over TCP; "" where there is none.
func (s *tokenServer) apiAddress() string {
	at := s.config.API
	if !at.IsValid() {
		return ""
	}
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(s.cluster.listens().Addr(), at.Port())
	}
	return at.String()
}

// ListTokens lists those that can still be used.
func (s *tokenServer) ListTokens(context.Context, *sluicev1.ListTokensRequest) (*sluicev1.ListTokensResponse, error) {
	snap, err := s.member()
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.ListTokensResponse{}
	for _, t := range snap.Tokens {
		if g, ok := grantOf(t); ok && !t.Over(s.cluster.now()) {
			resp.Tokens = append(resp.Tokens, &sluicev1.Token{
				Id: string(t.ID), Role: t.Role, Expires: timestamppb.New(time.Unix(t.Expires, 0)), Outdated: s.cluster.pin() != g.Pin,
			})
		}
	}
	return resp, nil
}

// RemoveToken takes a token back.
func (s *tokenServer) RemoveToken(_ context.Context, req *sluicev1.RemoveTokenRequest) (*sluicev1.RemoveTokenResponse, error) {
	return &sluicev1.RemoveTokenResponse{}, s.cluster.dropToken(mesh.TokenID(req.GetId()))
}
