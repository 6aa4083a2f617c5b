package agent

import (
	"cmp"
	"reflect"
	"slices"

	"google.golang.org/grpc"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type watchServer struct {
	sluicev1.UnimplementedWatchServiceServer
	*api
}

// Watch sends what there is and what changes as fast as the reader takes it: while it takes none,
// Send waits, and the reader's place is all that is kept for it.
func (s *watchServer) Watch(req *sluicev1.WatchRequest, stream grpc.ServerStreamingServer[sluicev1.WatchResponse]) error {
	if _, err := s.member(); err != nil {
		return err
	}
	first, from, err := s.watched.begin(req.GetSince())
	if err != nil {
		return err
	}
	defer s.watched.end(first)
	if err := open(first, stream); err != nil {
		return err
	}
	// The word that this is all, or that the reader may go on.
	if err := stream.Send(&sluicev1.WatchResponse{Revision: from.last}); err != nil {
		return err
	}
	for {
		batch, more, err := from.read()
		if err != nil {
			return err
		}
		if len(batch) > 0 {
			if err := stream.Send(toChanges(batch)); err != nil {
				return err
			}
			continue
		}
		if err := s.await(stream.Context(), more); err != nil {
			return err
		}
	}
}

// open sends what there is, where nothing was seen yet.
func open(first *opening, stream grpc.ServerStreamingServer[sluicev1.WatchResponse]) error {
	for {
		part, err := first.take()
		if err != nil || len(part) == 0 {
			return err
		}
		if err := stream.Send(&sluicev1.WatchResponse{Changes: part}); err != nil {
			return err
		}
	}
}

func toChanges(batch []change) *sluicev1.WatchResponse {
	resp := &sluicev1.WatchResponse{Revision: batch[len(batch)-1].rev}
	for _, c := range batch {
		resp.Changes = append(resp.Changes, c.Change)
	}
	return resp
}

// compareWatched orders objects so that one that names another comes after it.
func compareWatched(a, b mesh.Key) int {
	order := []mesh.Kind{mesh.KindNode, mesh.KindNetwork, mesh.KindService, mesh.KindEndpoint}
	return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.ID, b.ID))
}

// looker gives what there is to watch. It remembers what it saw last, since most looks see
// nothing new. For one goroutine at a time.
type looker struct {
	cluster *cluster
	pulse   *pulse
	snap    *mesh.Snapshot
	stand   []standing
}

// Forget makes the next Look return what there is.
func (l *looker) Forget() { l.snap, l.stand = nil, nil }

// Look returns what there is, or false where that is what it returned last.
func (l *looker) Look() (seen, bool) {
	snap := l.cluster.snapshot()
	stand := make([]standing, len(snap.Nodes))
	for i, n := range snap.Nodes {
		stand[i] = l.pulse.standing(n.ID)
	}
	if snap == l.snap && reflect.DeepEqual(stand, l.stand) {
		return nil, false
	}
	l.snap, l.stand = snap, stand
	return objectsOf(snap, stand, l.cluster.own.ID), true
}

// objectsOf are the cluster's as they are watched.
func objectsOf(snap *mesh.Snapshot, stand []standing, self mesh.NodeID) seen {
	all := make(seen, len(snap.Nodes)+len(snap.Networks)+len(snap.Services)+len(snap.Endpoints))
	endpoints := map[mesh.NodeID]uint32{}
	for _, e := range snap.Endpoints {
		endpoints[e.Node]++
	}
	for i, n := range snap.Nodes {
		node := toLoneNode(n, stand[i], self)
		node.Endpoints = endpoints[n.ID]
		all[mesh.Key{Kind: mesh.KindNode, ID: string(n.ID)}] = &sluicev1.Change{Object: &sluicev1.Change_Node{Node: node}}
	}
	for _, n := range snap.Networks {
		all[mesh.Key{Kind: mesh.KindNetwork, ID: string(n.ID)}] = &sluicev1.Change{Object: &sluicev1.Change_Network{Network: toNetwork(n, snap)}}
	}
	for _, s := range snap.Services {
		all[mesh.Key{Kind: mesh.KindService, ID: string(s.ID)}] = &sluicev1.Change{Object: &sluicev1.Change_Service{Service: toLoneService(s, snap)}}
	}
	for _, e := range snap.Endpoints {
		all[mesh.Key{Kind: mesh.KindEndpoint, ID: string(e.ID)}] = &sluicev1.Change{Object: &sluicev1.Change_Endpoint{Endpoint: toEndpoint(e, snap)}}
	}
	return all
}
