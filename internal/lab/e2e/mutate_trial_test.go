package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/lab/matrix"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// trial is something to ask a node that has all its rules, and what is the answer then.
type trial struct {
	name string
	ask  func() string
	want string
}

// The answers of a message.
const (
	arrives = "arrives"
	lost    = "does not arrive"
)

// message is a packet that carries a text, and a later one that is known to arrive: where that has
// come and the packet has not, it does not arrive.
type message struct {
	send, mark func(text string) error
	at, markAt hearer // markAt: nil for at
}

// hearer tells whether a text has come to some place.
type hearer interface{ heard(text string) bool }

// try sends, and gives one of the answers.
func (m message) try() string {
	text := rand.Text()
	if err := m.send(text); err != nil && !errors.Is(err, unix.EPERM) { // chain output drops
		return err.Error()
	}
	if m.markAt == nil {
		m.markAt = m.at
	}
	for range 2 { // the second finds all hardware addresses known
		if err := marks(m.markAt, m.mark); err != nil {
			return err.Error()
		}
	}
	if m.at.heard(text) {
		return arrives
	}
	return lost
}

// marks sends until something has come.
func marks(at hearer, send func(text string) error) error {
	const tries, each = 6, 300 * time.Millisecond
	token := rand.Text()
	var last error
	for range tries {
		last = send(token)
		for began := time.Now(); time.Since(began) < each; time.Sleep(time.Millisecond) {
			if at.heard(token) {
				return nil
			}
		}
	}
	return errors.Join(errors.New("no marker comes"), last)
}

// after is a marker's way in two steps: the second is made when the first was seen.
func after(at hearer, first, second func(text string) error) func(text string) error {
	return func(text string) error {
		if err := marks(at, first); err != nil {
			return err
		}
		return second(text)
	}
}

// sniffed hears by a Sniffer: before any rule of the namespace is asked.
type sniffed struct{ *probe.Sniffer }

func (s sniffed) heard(text string) bool {
	_, ok := s.Find(func(p probe.Packet) bool { return strings.Contains(p.Payload, text) })
	return ok
}

// resets hears TCP resets, which carry no text, from the port that the text stands for.
type resets struct{ *probe.Sniffer }

func (s resets) heard(text string) bool {
	_, ok := s.Find(func(p probe.Packet) bool { return p.Proto == probe.Reset && p.Source.Port() == portOf(text) })
	return ok
}

// portOf makes a port of a text; the next text's is another one, most likely.
func portOf(text string) uint16 {
	const first, many = 20000, 10000
	n := uint32(0)
	for _, c := range text {
		n = n*31 + uint32(c)
	}
	return uint16(first + n%many)
}

// frames hears what comes to a namespace in any frame.
type frames struct{ *probe.Listener }

func (f frames) heard(text string) bool { return f.Heard([]byte(text)) }

// ear is a process's sockets: they hear what every rule has let in.
type ear struct {
	sockets []int
	texts   []string
}

const earPort = 7900

// hear opens the sockets; both families come to each.
func (w *mutated) hear(t *testing.T, at probe.Place, ports ...uint16) *ear {
	t.Helper()
	e := &ear{}
	w.servers = append(w.servers, e.close)
	err := at.Do(func() error {
		for _, port := range ports {
			fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			e.sockets = append(e.sockets, fd)
			if err := unix.Bind(fd, &unix.SockaddrInet6{Port: int(port)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *ear) close() error {
	var errs []error
	for _, fd := range e.sockets {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// tell sends from one of the sockets.
func (e *ear) tell(socket int, to netip.AddrPort, text string) error {
	return unix.Sendto(e.sockets[socket], []byte(text), 0, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
}

func (e *ear) heard(text string) bool {
	buf := make([]byte, 1<<11)
	for _, fd := range e.sockets {
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil && !errors.Is(err, unix.EINTR) {
				break // nothing more is there
			}
			e.texts = append(e.texts, string(buf[:max(n, 0)]))
		}
	}
	for _, heard := range e.texts {
		if strings.Contains(heard, text) {
			return true
		}
	}
	return false
}

// forget drops all that was heard anywhere.
func (w *mutated) forget() {
	for _, s := range w.at {
		s.Forget()
	}
	for _, l := range w.frames {
		l.Forget()
	}
	w.ear.texts = nil
}

// questions are all trials, then the cells of the matrix.
func (w *mutated) questions(t *testing.T) []trial {
	t.Helper()
	makers := map[kindOfWorld][]func(*testing.T) []trial{
		openWorld:    {w.dials, w.forwarded, w.captured, w.portFrames, w.tunnelled, w.cells},
		sixWorld:     {w.tunnelled},
		respectWorld: {w.judged, w.dials, w.forwarded, w.captured, w.portFrames, w.tunnelled, w.cells},
	}
	var all []trial
	for _, maker := range makers[w.kind] {
		all = append(all, maker(t)...)
	}
	return all
}

// cells are those of the matrix.
func (w *mutated) cells(*testing.T) []trial {
	var all []trial
	for _, c := range matrix.Cells() {
		if w.kind == respectWorld && c.Network == matrix.Routed {
			continue // its port is denied
		}
		all = append(all, trial{c.Name(), func() string { return w.try(c) }, w.expected(c)})
	}
	return all
}

// udp sends text from one place to another as any process does.
func udp(from probe.Place, to netip.AddrPort) func(text string) error {
	return func(text string) error { return probe.Client{Place: from, Wait: patience}.Tell(to, text) }
}

// false sends text in a frame of one's own making.
func (c wire) frame(to wire, proto string, source, dest netip.AddrPort) func(text string) error {
	return func(text string) error {
		p := probe.Packet{Proto: proto, Source: source, Dest: dest, Payload: text}
		if proto == probe.Reset {
			p.Source, p.Payload = netip.AddrPortFrom(source.Addr(), portOf(text)), ""
		}
		return probe.Frame{Device: c.name, To: to.mac, Packet: p}.Send(c.at)
	}
}

func named(name string, more ...any) string {
	for _, m := range more {
		name += ", " + fmt.Sprint(m)
	}
	return name
}
