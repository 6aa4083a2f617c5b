// Package probe is the traffic of the lab: a workload that says who it is and whom
// it sees, and a client that asks it and tells a refusal from a silence.
//
//	client --TCP or UDP--> "web.2 sees 192.168.50.100:41234" --> client
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The ports that the workload listens on, TCP and UDP.
const (
	TargetPort = 80 // what services publish
	HiddenPort = 81 // what nobody publishes
)

// BigSize is how many bytes /big answers with.
const BigSize = 5 << 20

// Server is one workload. Over TCP it speaks HTTP:
//
//	/       who am I, whom do I see
//	/big    BigSize bytes
//	/count  how many bytes the request's body had
//	/heard  the datagrams that came to HiddenPort, one a line
//	/paced  a Transfer
//	/sum    length and hash of the request's body
//
// Over UDP it answers with who, whom, and the datagram's length.
type Server struct {
	name    string
	streams []net.Listener
	packets []net.PacketConn

	mu    sync.Mutex
	heard []string
}

// Listen opens the server's sockets, TCP and UDP of both families, in the
// calling thread's namespace.
func Listen(name string, ports ...uint16) (*Server, error) {
	s := &Server{name: name}
	for _, port := range ports {
		lc := net.ListenConfig{KeepAlive: -1} // an idle connection is to be silent
		lc.SetMultipathTCP(false)
		at := fmt.Sprintf(":%d", port)
		stream, err := lc.Listen(context.Background(), "tcp", at)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen: %w", err), s.close())
		}
		s.streams = append(s.streams, stream)
		packet, err := lc.ListenPacket(context.Background(), "udp", at)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen: %w", err), s.close())
		}
		s.packets = append(s.packets, packet)
	}
	return s, nil
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	var group sync.WaitGroup
	for _, l := range s.streams {
		group.Go(func() { _ = web.Serve(l) }) // ends with Close, which is no error
	}
	for _, p := range s.packets {
		group.Go(func() { s.answer(p) })
	}
	<-ctx.Done()
	err := errors.Join(web.Close(), s.close())
	group.Wait()
	return err
}

func (s *Server) close() error {
	var errs []error
	for _, l := range s.streams {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, p := range s.packets {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s sees %s\n", s.name, r.RemoteAddr)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.CopyN(w, zeros{}, BigSize) // a client that goes away is its own business
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("/heard", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		fmt.Fprintln(w, strings.Join(s.heard, "\n"))
	})
	transfers(mux)
	return mux
}

// answer ends when the socket is closed.
func (s *Server) answer(p net.PacketConn) {
	buf := make([]byte, 1<<16)
	hidden := netip.MustParseAddrPort(p.LocalAddr().String()).Port() == HiddenPort
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		if hidden {
			s.hear(string(buf[:min(n, 64)]))
		}
		// An answer that does not arrive is seen by who waits for it.
		_, _ = fmt.Fprintf(packetWriter{p, from}, "%s sees %s length %d", s.name, from, n)
	}
}

// hear keeps the newest datagrams only: what asks looks soon.
func (s *Server) hear(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = append(s.heard[max(0, len(s.heard)-99):], text)
}

type packetWriter struct {
	net.PacketConn
	to net.Addr
}

func (w packetWriter) Write(b []byte) (int, error) { return w.WriteTo(b, w.to) }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// ServeUntilSignal is the whole workload: a server named name on its two ports, or on those
// that are given, until SIGTERM or SIGINT.
func ServeUntilSignal(name string, ports ...uint16) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(ports) == 0 {
		ports = []uint16{TargetPort, HiddenPort}
	}
	s, err := Listen(name, ports...)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
