package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/bridge/dns"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// nameServer answers one asker for as long as it is needed: where its sockets cannot be opened,
// or fail, it tries again. Safe for concurrent use.
type nameServer struct {
	object  string // as status calls whom it is for
	server  *dns.Server
	open    func() (net.PacketConn, net.Listener, error)
	changed func()
	log     *slog.Logger
	cancel  context.CancelFunc
	ended   chan struct{} // closed once nothing of it is left

	mu      sync.Mutex
	problem error // nil while it answers
}

const (
	reopenLeast = 250 * time.Millisecond // after a server failed
	reopenMost  = 8 * time.Second
)

// serve begins to answer and returns once it does, or once that failed for now.
func (n *naming) serve(object string, a dns.Asker, open func() (net.PacketConn, net.Listener, error)) *nameServer {
	ctx, cancel := context.WithCancel(n.ctx)
	s := &nameServer{
		object: object, server: dns.NewServer(n.tell, a), open: open, changed: func() { n.changed() },
		log: n.log, cancel: cancel, ended: make(chan struct{}),
	}
	packets, listener, err := s.open()
	s.problem = err
	if err != nil {
		s.log.Error("names are not served", "for", object, "err", err)
	}
	go func() {
		defer close(s.ended)
		defer cancel()
		s.keep(ctx, packets, listener, err)
	}()
	return s
}

func (s *nameServer) keep(ctx context.Context, packets net.PacketConn, listener net.Listener, err error) {
	pause := reopenLeast
	for {
		if err == nil {
			s.note(nil)
			pause = reopenLeast
			err = s.server.Serve(ctx, packets, listener)
		}
		if ctx.Err() != nil {
			return
		}
		s.note(err)
		if !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, reopenMost)
		packets, listener, err = s.open()
	}
}

// note keeps what is in the way, and says so where that is news.
func (s *nameServer) note(err error) {
	s.mu.Lock()
	was := s.problem
	s.problem = err
	s.mu.Unlock()
	switch {
	case was == nil && err != nil:
		s.log.Error("names are no longer served", "for", s.object, "err", err)
	case was != nil && err == nil:
		s.log.Info("names are served", "for", s.object)
	default:
		return
	}
	s.changed()
}

func (s *nameServer) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// listenAt opens both transports at an address of the host, or neither.
func listenAt(at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	packets, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return nil, nil, errors.Join(err, packets.Close())
	}
	return packets, listener, nil
}

// NamesNotServed is the reason of a problem: an endpoint, or an operator, has no name server, or
// an endpoint's resolv.conf is not as it should be.
const NamesNotServed mesh.Reason = "NamesNotServed"

// namesReason is why names are not served, as status has it.
func namesReason(err error) string {
	if refusal, ok := errors.AsType[*kernel.Refusal](err); ok {
		return string(refusal.Reason)
	}
	return string(NamesNotServed)
}
