package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// fakeMachine is a machine whose namespaces are files that hold "netns". It lets
// go what is not planned, as the real one does.
type fakeMachine struct {
	addr netip.Addr
	dir  string

	drifts chan []kernel.Drift // nobody sends unless a test does
	echo   fakeEcho

	lost  chan struct{}
	moved chan struct{}

	mu        sync.Mutex
	gone      netip.Addr      // an address that it had
	dialled   []kernel.Sender // at an address that is lost
	forgotten []string        // what ForgetOver was asked for
	applied   []*plan.Plan
	fail      string                 // objects that contain it are refused
	hold      chan struct{}          // Apply waits until it is closed
	broken    []kernel.Op            // what the next Apply finds changed and puts back
	differ    []kernel.Op            // what Diff says
	others    map[kernel.Port]string // who else has which port
	blind     error                  // what Held says besides
	occupied  []doctor.Occupied
	flushed   bool // somebody took our sets away

	asked map[string][2]string // where each sandbox's names are told, by UDP and TCP
	deaf  error                // what ListenNames says
}

func newFakeMachine(tb testing.TB, addr string) *fakeMachine {
	tb.Helper()
	return &fakeMachine{addr: netip.MustParseAddr(addr), dir: tb.TempDir(), drifts: make(chan []kernel.Drift), lost: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
}

func (m *fakeMachine) failOn(object string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = object
}

// plan is the newest that was applied; empty before the first.
func (m *fakeMachine) plan() *plan.Plan {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.applied) == 0 {
		return &plan.Plan{}
	}
	return m.applied[len(m.applied)-1]
}

// holdUp makes a kernel that is slow to apply until release is called.
func (m *fakeMachine) holdUp() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hold = make(chan struct{})
	return sync.OnceFunc(func() { close(m.hold) })
}

func (m *fakeMachine) Apply(ctx context.Context, want *plan.Plan) kernel.Report {
	m.mu.Lock()
	hold := m.hold
	m.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied, m.flushed = append(m.applied, want), false
	planned := map[string]bool{}
	report := kernel.Report{Done: m.broken}
	m.broken = nil
	for _, s := range want.Sandboxes {
		planned[s.Name] = true
		for _, l := range s.Links {
			object := s.Name + ": " + l.String()
			if m.fail != "" && strings.Contains(object, m.fail) {
				report.Failed = append(report.Failed, kernel.Failure{Object: object, Reason: plan.KernelRefused, Err: errors.New("no such luck")})
			}
		}
	}
	for _, name := range m.pinned() {
		if !planned[name] {
			os.Remove(m.Path(name))
		}
	}
	return report
}

func (m *fakeMachine) Lost() <-chan struct{}  { return m.lost }
func (m *fakeMachine) Moved() <-chan struct{} { return m.moved }
func (m *fakeMachine) ForgetLost() ([]kernel.Sender, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := m.dialled
	m.dialled = nil
	return gone, nil
}

func (m *fakeMachine) ForgetOver(sandbox string, zone uint16, senders []kernel.Sender) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forgotten = append(m.forgotten, fmt.Sprintf("%s zone %d %v", sandbox, zone, senders))
	return nil
}

func (m *fakeMachine) Drifted() <-chan []kernel.Drift { return m.drifts }

// sabotage changes objects behind the agent's back; the fake kernel tells who did.
func (m *fakeMachine) sabotage(tb testing.TB, by string, broken ...kernel.Op) {
	tb.Helper()
	m.mu.Lock()
	m.broken = broken
	m.mu.Unlock()
	select {
	case m.drifts <- []kernel.Drift{{Sandbox: plan.HostSandbox, Kind: "nft", By: by}}:
	case <-time.After(5 * time.Second):
		tb.Fatal("the agent does not listen for drifts")
	}
}

func (m *fakeMachine) Diff(context.Context, *plan.Plan) ([]kernel.Op, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.differ, nil
}

func (m *fakeMachine) setDiffer(ops ...kernel.Op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.differ = ops
}

// occupy lets somebody else on the host have a port; by "" ends that.
func (m *fakeMachine) occupy(port kernel.Port, by string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.others == nil {
		m.others = map[kernel.Port]string{}
	}
	m.others[port] = by
}

func (m *fakeMachine) Held(ports []kernel.Port) ([]kernel.Holding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var held []kernel.Holding
	for _, p := range ports {
		if by := m.others[p]; by != "" {
			held = append(held, kernel.Holding{Port: p, By: by})
		}
	}
	return held, m.blind
}

// Captured tells of publications on all addresses only.
func (m *fakeMachine) Captured() ([]kernel.Port, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ports []kernel.Port
	if len(m.applied) == 0 || m.flushed {
		return nil, nil
	}
	for _, text := range captured(m.applied[len(m.applied)-1]) {
		proto, number, _ := strings.Cut(text, " . ")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return nil, err
		}
		ports = append(ports, kernel.Port{Proto: proto, Number: uint16(port)})
	}
	return ports, nil
}

// captured are the ports of the set that makes them answer, "tcp . 8080".
func captured(p *plan.Plan) []string {
	var keys []string
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindHost {
			for _, e := range s.Table("inet").Set(plan.Published).Elements {
				keys = append(keys, e.Key)
			}
		}
	}
	return keys
}

func (m *fakeMachine) pinned() []string {
	entries, _ := os.ReadDir(m.dir)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

func (m *fakeMachine) Pin(name, path string) error {
	content, err := os.ReadFile(path)
	if err != nil || string(content) != "netns" {
		return &kernel.Refusal{Reason: plan.SandboxGone, Why: path + " is no network namespace", Do: "give the path of one"}
	}
	return os.Link(path, m.Path(name))
}

func (m *fakeMachine) PinPID(name string, pid int) error {
	if pid != os.Getpid() {
		return &kernel.Refusal{Reason: plan.SandboxGone, Why: "there is no such process", Do: "give a process that lives"}
	}
	return os.WriteFile(m.Path(name), []byte("netns"), 0o600)
}

func (m *fakeMachine) Pinned(name string) bool {
	_, err := os.Stat(m.Path(name))
	return !errors.Is(err, fs.ErrNotExist)
}

func (m *fakeMachine) Path(name string) string       { return filepath.Join(m.dir, name) }
func (m *fakeMachine) OwnBridges() ([]string, error) { return []string{"docker0"}, nil }
func (m *fakeMachine) Advertised() ([]string, error) { return []string{"eth0"}, nil }
func (m *fakeMachine) Unrouted() (four, six []string, err error) {
	return []string{"eth0"}, []string{"eth0"}, nil
}
func (m *fakeMachine) Close() error { return nil }

// ListenNames listens on the host, at a port that asker finds, while the sandbox is pinned.
func (m *fakeMachine) ListenNames(sandbox string, _ netip.AddrPort) (net.PacketConn, net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.deaf != nil {
		return nil, nil, m.deaf
	}
	packets, listener, err := listenAt(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		return nil, nil, err
	}
	if m.asked == nil {
		m.asked = map[string][2]string{}
	}
	m.asked[sandbox] = [2]string{packets.LocalAddr().String(), listener.Addr().String()}
	return packets, listener, nil
}

// ListenNamesAside is known by what it is called for.
func (m *fakeMachine) ListenNamesAside(sandbox string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	return m.ListenNames("aside "+sandbox, at)
}

// setDeaf lets ListenNames fail.
func (m *fakeMachine) setDeaf(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.deaf = err
}

func (m *fakeMachine) Occupied() ([]doctor.Occupied, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.occupied, nil
}

// lead gives the host other routes.
func (m *fakeMachine) lead(to ...doctor.Occupied) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.occupied = to
}

func (m *fakeMachine) HostAddrs() ([]plan.Addr, error) {
	return []plan.Addr{
		{Link: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8")},
		{Link: "eth0", Prefix: netip.PrefixFrom(m.addr, 24)},
		{Link: "eth0", Prefix: netip.MustParsePrefix("2001:db8::11/64")},
		{Link: "docker0", Prefix: netip.MustParsePrefix("172.17.0.1/16")},
	}, nil
}

func (m *fakeMachine) Underlay(advertise netip.Addr) (netip.Addr, int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch advertise {
	case netip.Addr{}:
		return m.addr, 1500, nil
	case m.gone:
		return advertise, 0, &kernel.Refusal{Reason: kernel.NoUnderlay, Why: "it moved", Do: "look where it is"}
	default:
		return advertise, 1500, nil
	}
}

// move gives the host another address.
func (m *fakeMachine) move(addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone, m.addr = m.addr, netip.MustParseAddr(addr)
	m.moved <- struct{}{}
}

// processes lets tests end a process that somebody watches.
type processes struct {
	mu    sync.Mutex
	ended map[int]chan struct{}
}

func (p *processes) watch(_ context.Context, pid int) (<-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = map[int]chan struct{}{}
	}
	if p.ended[pid] == nil {
		p.ended[pid] = make(chan struct{})
	}
	return p.ended[pid], nil
}

func (p *processes) end(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.ended[pid])
	delete(p.ended, pid)
}
