package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
)

// fakeEcho are kernels that answer at once, but for those that a test has made mute.
type fakeEcho struct {
	mu     sync.Mutex
	mute   map[netip.Addr]bool
	fault  error
	came   []fakeAnswer
	sent   map[netip.Addr][]time.Time
	closed bool
}

type fakeAnswer struct {
	from     netip.Addr
	sequence uint16
}

func (m *fakeMachine) Knock(context.Context, netip.AddrPort) (bool, error) {
	return false, errors.New("nobody knocks here")
}

func (m *fakeMachine) Echo() kernel.Echoer { return &m.echo }

func (e *fakeEcho) Send(to netip.Addr, sequence uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fault != nil {
		return e.fault
	}
	if e.sent == nil {
		e.sent = map[netip.Addr][]time.Time{}
	}
	e.sent[to] = append(e.sent[to], time.Now())
	if !e.mute[to] {
		e.came = append(e.came, fakeAnswer{to, sequence})
	}
	return nil
}

func (e *fakeEcho) Receive(each func(from netip.Addr, sequence uint16)) error {
	e.mu.Lock()
	came := e.came
	e.came = nil
	e.mu.Unlock()
	for _, a := range came {
		each(a.from, a.sequence)
	}
	return nil
}

func (e *fakeEcho) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// setMute makes these kernels mute, and all others answer.
func (e *fakeEcho) setMute(addrs ...netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.mute = map[netip.Addr]bool{}
	for _, a := range addrs {
		e.mute[a] = true
	}
}

// setFault makes asking impossible; nil makes it possible again.
func (e *fakeEcho) setFault(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = err
}

// asked are the times at which each kernel was asked, since the last call.
func (e *fakeEcho) asked() map[netip.Addr][]time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	sent := maps.Clone(e.sent)
	clear(e.sent)
	return sent
}
