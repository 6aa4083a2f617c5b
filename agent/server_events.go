package agent

import (
	"context"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

type eventServer struct {
	sluicev1.UnimplementedEventServiceServer
	*api
}

// WatchEvents sends events as fast as the reader takes them: while it takes none, Send
// waits, and the reader's place in the ring is all that is kept for it.
func (s *eventServer) WatchEvents(req *sluicev1.WatchEventsRequest, stream grpc.ServerStreamingServer[sluicev1.WatchEventsResponse]) error {
	reader, err := s.events.after(req.GetSince())
	if err != nil {
		return err
	}
	last := s.events.newest()
	for {
		batch, more, err := reader.read()
		if err != nil {
			return err
		}
		for _, e := range batch {
			if !req.GetFollow() && e.rev > last {
				return nil
			}
			if err := stream.Send(&sluicev1.WatchEventsResponse{Event: toEvent(e)}); err != nil {
				return err
			}
		}
		if len(batch) > 0 {
			continue
		}
		if !req.GetFollow() {
			return nil
		}
		if err := s.await(stream.Context(), more); err != nil {
			return err
		}
	}
}

// await waits until a stream's reader has more to read. It ends with ctx, the stream's, and
// refuses when the agent stops.
func (a *api) await(ctx context.Context, more <-chan struct{}) error {
	select {
	case <-more:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.loop.stopped:
		return mesh.Refuse(Stopping, "start the agent again", "the agent is stopping")
	}
}

func toEvent(e event) *sluicev1.Event {
	return &sluicev1.Event{Revision: e.rev, Time: toTime(e.at), Kind: string(e.kind), Object: e.object, Text: e.text}
}

// refuseStream is refuse for calls that answer with a stream.
func refuseStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := next(srv, stream); err != nil {
		if _, told := grpcstatus.FromError(err); told {
			return err // of the stream itself
		}
		return toStatus(err)
	}
	return nil
}

// surviveStream is survive for calls that answer with a stream.
func surviveStream(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("a call met a bug", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
				err = grpcstatus.Error(codes.Internal, "the agent met a bug: see its log")
			}
		}()
		return next(srv, stream)
	}
}
