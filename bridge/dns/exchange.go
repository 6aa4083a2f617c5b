package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Dialer opens connections to upstreams, in the namespace where they are reached.
// net.Dialer is one. It may be called from any goroutine and must heed ctx.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	udpWait   = time.Second     // then the same upstream is tried by TCP: it may be that only UDP is lost
	tcpWait   = 2 * time.Second // from dialling to the last byte
	maxForged = 32              // by UDP, then TCP, where nobody can guess along
)

var (
	errForged    = errors.New("too many messages that answer nothing")
	errTruncated = errors.New("answer is truncated")
	errBroken    = errors.New("answer is not what its header says")
	errMismatch  = errors.New("answer is to another question")
)

// exchange asks one upstream: by UDP, from a socket and so a port of its own, and by TCP where
// that gave no whole answer.
func (f *Forwarder) exchange(ctx context.Context, u *upstream, k lookup) (*dns.Msg, error) {
	msg, err := f.overUDP(ctx, u, f.request(u, k))
	if err == nil && msg.Rcode == dns.RcodeFormatError && msg.IsEdns0() == nil { // it knows no EDNS
		plain := f.request(u, k)
		plain.Extra = nil
		msg, err = f.overUDP(ctx, u, plain)
	}
	if err == nil || ctx.Err() != nil {
		return msg, err
	}
	byTCP, tcpErr := f.overTCP(ctx, u, f.request(u, k))
	if tcpErr != nil {
		return nil, fmt.Errorf("ask %s by UDP: %w; by TCP: %w", u.addr, err, tcpErr)
	}
	return byTCP, nil
}

// request is the question as we ask it. Of what the asker sent only the question and its wish
// for signatures go on: no client subnet, no cookie, nothing else.
func (f *Forwarder) request(u *upstream, k lookup) *dns.Msg {
	m := &dns.Msg{}
	m.Id = dns.Id() // from crypto/rand
	m.RecursionDesired = true
	m.AuthenticatedData = true // asks for AD in the answer (RFC 6840 5.7)
	m.CheckingDisabled = k.cd
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: dns.ClassINET}}
	m.SetEdns0(ourUDPSize, k.do)
	if near(u.addr.Addr()) {
		opt := m.IsEdns0()
		opt.Option = append(opt.Option, f.mark.option(u))
	}
	return m
}

func (f *Forwarder) overUDP(ctx context.Context, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, udpWait)
	defer cancel()
	conn, stop, err := f.dial(ctx, "udp", u)
	if err != nil {
		return nil, err
	}
	defer stop()
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if _, err := conn.Write(wire); err != nil {
		return nil, fmt.Errorf("send question: %w", err)
	}
	buf := make([]byte, askerUDPSize)
	for range maxForged {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		msg, err := accept(buf[:n], m)
		switch {
		case errors.Is(err, errMismatch):
			f.count.forged.Add(1)
		case err != nil:
			return nil, err
		case msg.Truncated:
			return nil, errTruncated
		default:
			return msg, nil
		}
	}
	return nil, errForged
}

func (f *Forwarder) overTCP(ctx context.Context, u *upstream, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tcpWait)
	defer cancel()
	conn, stop, err := f.dial(ctx, "tcp", u)
	if err != nil {
		return nil, err
	}
	defer stop()
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		return nil, fmt.Errorf("send question: %w", err)
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	msg, err := accept(buf, m)
	if errors.Is(err, errMismatch) {
		f.count.forged.Add(1)
	}
	if err == nil && msg.Truncated {
		return nil, errTruncated
	}
	return msg, err
}

// dial opens a connection that ends with ctx's deadline and with f; stop closes it.
func (f *Forwarder) dial(ctx context.Context, network string, u *upstream) (net.Conn, func(), error) {
	conn, err := f.dialer.DialContext(ctx, network, u.addr.String())
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", network, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline) //nolint:errcheck // then the first write fails
	}
	unwatch := context.AfterFunc(f.ctx, func() { conn.Close() })
	return conn, func() { unwatch(); conn.Close() }, nil
}

// accept reads an answer to m. errMismatch: it may be somebody else's, wait on.
func accept(wire []byte, m *dns.Msg) (*dns.Msg, error) {
	if len(wire) < headerSize || binary.BigEndian.Uint16(wire) != m.Id || wire[2]&0x80 == 0 {
		return nil, errMismatch
	}
	msg := &dns.Msg{}
	err := msg.Unpack(wire)
	asked := m.Question[0]
	switch {
	case len(msg.Question) == 0 && msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError:
		return msg, nil // who refuses or cannot read a question need not repeat it
	case len(msg.Question) != 1 || msg.Opcode != dns.OpcodeQuery || !same(msg.Question[0], asked):
		return nil, errMismatch
	case msg.Truncated: // it may end anywhere, and nothing is taken from it
		return msg, nil
	case err != nil:
		return nil, fmt.Errorf("unpack answer: %w", err)
	case !honest(wire, msg) || slices.ContainsFunc(slices.Concat(msg.Answer, msg.Ns), isOPT):
		return nil, errBroken
	}
	return msg, nil
}

func same(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

func isOPT(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT }
