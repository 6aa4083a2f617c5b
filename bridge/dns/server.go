package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Server answers one asker, on sockets in the asker's namespace. All its work for others is
// bounded, so that an asker that floods it fails alone.
type Server struct {
	resolver *Resolver
	asker    atomic.Pointer[Asker]
	limits   Limits
	forwards chan struct{} // a place for each question that waits for an upstream
}

// NewServer makes a server for a, with the limits of r's forwarder.
func NewServer(r *Resolver, a Asker) *Server {
	s := &Server{resolver: r, limits: r.forward.limits}
	s.forwards = make(chan struct{}, s.limits.AskerForwards)
	s.SetAsker(a)
	return s
}

// SetAsker says on which networks the asker is from now on.
func (s *Server) SetAsker(a Asker) { s.asker.Store(&a) }

// Serve answers until ctx ends or a socket fails, and returns nil or why. It closes both
// sockets, either of which may be nil, and every connection, and waits for all its goroutines.
func (s *Server) Serve(ctx context.Context, packets net.PacketConn, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	serving := func(name string, serve func(context.Context, *sync.WaitGroup) error) {
		work.Go(func() {
			if err := serve(ctx, &work); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serve DNS by %s: %w", name, err))
			}
		})
	}
	if packets != nil {
		serving("UDP", func(ctx context.Context, work *sync.WaitGroup) error { return s.servePackets(ctx, work, packets) })
	}
	if listener != nil {
		serving("TCP", func(ctx context.Context, work *sync.WaitGroup) error { return s.serveConns(ctx, work, listener) })
	}
	<-ctx.Done()
	if packets != nil {
		packets.Close()
	}
	if listener != nil {
		listener.Close()
	}
	work.Wait()
	err := context.Cause(ctx)
	cancel(nil)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// sender takes the packed answer to one message.
type sender func(wire []byte)

// handle answers one message. What has to wait for an
// upstream is done in a goroutine of work's; everything else before handle returns.
func (s *Server) handle(ctx context.Context, work *sync.WaitGroup, wire []byte, size room, send sender) {
	defer s.resolver.count.caught()
	q, m, wait := s.resolver.answer(s.asker.Load(), wire)
	if m != nil {
		s.deliver(q, m, size, send)
	}
	if wait == nil {
		return
	}
	select {
	case s.forwards <- struct{}{}:
		work.Go(func() {
			defer func() { <-s.forwards }()
			defer s.resolver.count.caught()
			s.deliver(q, wait(ctx), size, send)
		})
	default:
		s.deliver(q, s.resolver.busy(q), size, send)
	}
}

// room is how long an answer may be.
type room int

const (
	asOffered room = 0 // what the asker's EDNS says
	unlimited room = dns.MaxMsgSize
)

func (s *Server) deliver(q *query, m *dns.Msg, size room, send sender) {
	if size == asOffered {
		size = room(q.room())
	}
	wire, err := pack(m, int(size))
	if err != nil && q != nil { // an upstream's record that cannot be written again
		wire, err = pack(q.reply(dns.RcodeServerFailure), int(size))
	}
	if err != nil {
		return
	}
	if m.Truncated {
		s.resolver.count.truncated.Add(1)
	}
	send(wire)
}

// failures paces a loop whose socket gives errors: what passes is waited out, what does not
// ends the loop, and never does it spin.
type failures struct{ row int }

const (
	failurePause = 10 * time.Millisecond
	failureLimit = 500 // in a row: 5 s
)

// after returns err once there were too many.
func (f *failures) after(ctx context.Context, err error) error {
	if f.row++; f.row > failureLimit || errors.Is(err, net.ErrClosed) {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(failurePause):
		return nil
	}
}

func (f *failures) none() { f.row = 0 }

// servePackets answers by UDP. One goroutine reads and answers; what it does not know it
// hands on.
func (s *Server) servePackets(ctx context.Context, work *sync.WaitGroup, packets net.PacketConn) error {
	buf := make([]byte, askerUDPSize)
	var failed failures
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			if err := failed.after(ctx, err); err != nil {
				return err
			}
			continue
		}
		failed.none()
		s.handle(ctx, work, buf[:n], asOffered, func(wire []byte) {
			packets.WriteTo(wire, from) //nolint:errcheck // a lost answer by UDP is the asker's to ask for again
		})
	}
}
