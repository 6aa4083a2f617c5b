package agent

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type keyServer struct {
	sluicev1.UnimplementedKeyServiceServer
	*api
}

// RotateKeys gives gossip another key.
func (s *keyServer) RotateKeys(context.Context, *sluicev1.RotateKeysRequest) (*sluicev1.RotateKeysResponse, error) {
	id, err := s.cluster.rotateKeys()
	if err != nil {
		return nil, err
	}
	return &sluicev1.RotateKeysResponse{Id: id}, nil
}

// ListKeys lists those that this node reads by.
func (s *keyServer) ListKeys(context.Context, *sluicev1.ListKeysRequest) (*sluicev1.ListKeysResponse, error) {
	keys, generation, made, err := s.cluster.shownKeys()
	if err != nil {
		return nil, err
	}
	resp := &sluicev1.ListKeysResponse{Generation: generation, Made: timestamppb.New(made)}
	for _, k := range keys {
		resp.Keys = append(resp.Keys, &sluicev1.GossipKey{Id: k.id, Sends: k.sends, Newest: k.newest})
	}
	return resp, nil
}
