package agent

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
	"github.com/sluice-mesh/sluice/mesh/gossip"
)

// ErrorDomain is the domain of the google.rpc.ErrorInfo of every refusal, and
// ErrorDo the key of its metadata under which stands what to do.
const (
	ErrorDomain = "sluice"
	ErrorDo     = "do"
)

// refuse makes refusals gRPC statuses: the one place where errors leave the agent.
func refuse(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err == nil {
		return resp, nil
	}
	return nil, toStatus(err)
}

// toStatus is the status of an error: of a refusal with its reason and what to
// do, of anything else a sentence.
func toStatus(err error) error {
	var of *mesh.Refusal
	var kernelOf *kernel.Refusal
	switch {
	case errors.As(err, &of):
		return refusalStatus(of.Reason, of.Why, of.Do)
	case errors.As(err, &kernelOf):
		return refusalStatus(mesh.Reason(kernelOf.Reason), kernelOf.Why, kernelOf.Do)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return grpcstatus.FromContextError(err).Err()
	default:
		return grpcstatus.Error(codes.Internal, err.Error())
	}
}

func refusalStatus(reason mesh.Reason, why, do string) error {
	s := grpcstatus.New(codeOf(reason), why)
	detailed, err := s.WithDetails(&errdetails.ErrorInfo{
		Reason: string(reason), Domain: ErrorDomain, Metadata: map[string]string{ErrorDo: do},
	})
	if err != nil {
		return s.Err() // only where the details are no message, which they are
	}
	return detailed.Err()
}

func codeOf(reason mesh.Reason) codes.Code {
	switch reason {
	case mesh.BadName, mesh.BadAddress, mesh.BadPublish, mesh.BadValue, mesh.BadRecord, mesh.PortReserved, trust.TokenDamaged, trust.WrongRole:
		return codes.InvalidArgument
	case mesh.NotFound, mesh.Reason(plan.SandboxGone):
		return codes.NotFound
	case mesh.NameTaken, mesh.NameShadows, mesh.PortTaken, mesh.SubnetTaken, mesh.AddressTaken, mesh.BlockTaken, InCluster, NamespaceTaken, AlreadyConnected:
		return codes.AlreadyExists
	case EventsGone, RevisionGone:
		return codes.OutOfRange
	case mesh.PoolExhausted, TooSlow, TooManyCalls:
		return codes.ResourceExhausted
	case mesh.Unsupported:
		return codes.Unimplemented
	case gossip.Unreachable, JoinFailed, Stopping:
		return codes.Unavailable
	case NoCertificate, trust.CertExpired, trust.CertOfFuture, trust.BadCertificate:
		return codes.Unauthenticated
	case NotAllowed, gossip.WrongSecret, trust.TokenUnknown, trust.TokenExpired, trust.TokenRevoked, trust.TokenOutdated, trust.WrongCluster:
		return codes.PermissionDenied
	default: // InUse, NoCluster, NotHere, FeatureMissing, KernelRefused and whatever a later kernel package says
		return codes.FailedPrecondition
	}
}

// survive answers a call that met a bug, so that one bad request ends no agent.
func survive(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("a call met a bug", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, grpcstatus.Error(codes.Internal, "the agent met a bug: see its log")
			}
		}()
		return next(ctx, req)
	}
}
