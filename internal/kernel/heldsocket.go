package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// listening is what a socket answers on, but for its address.
type listening struct {
	proto string
	port  uint16
}

// socket is one that new packets may reach.
type socket struct {
	listening
	addr  netip.Addr // unspecified: every address
	dual  bool       // on every IPv4 address too
	inode uint32
}

// holds tells whether a packet for p could be for the socket.
func (s socket) holds(p Port) bool {
	switch {
	case p.Proto != s.proto || p.Number != s.port:
		return false
	case !p.Addr.IsValid():
		return true
	case s.addr.IsUnspecified():
		return s.addr.Is4() == p.Addr.Is4() || s.dual
	default:
		return s.addr == p.Addr
	}
}

// The kernel's states of sockets (net/tcp_states.h), which UDP has too: a UDP socket
// that is bound counts as closed until it is connected, and then it belongs to a client.
const (
	stateClose  = 7
	stateListen = 10
)

// socketKind is one dump of the kernel's sockets.
type socketKind struct {
	proto    string
	protocol uint8
	state    uint8
}

func socketKinds() []socketKind {
	return []socketKind{{"tcp", unix.IPPROTO_TCP, stateListen}, {"udp", unix.IPPROTO_UDP, stateClose}}
}

// hostSockets are the host's sockets of the protocols of the ports.
func (k *Kernel) hostSockets(ports []Port) ([]socket, error) {
	conn, err := nfnetlink.Dial(unix.NETLINK_SOCK_DIAG, &nfnetlink.Config{NetNS: int(k.host.fd)})
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	defer conn.Close()
	var all []socket
	for _, kind := range socketKinds() {
		if !slices.ContainsFunc(ports, func(p Port) bool { return p.Proto == kind.proto }) {
			continue
		}
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			some, err := dumpSockets(conn, kind, family)
			if err != nil {
				return nil, fmt.Errorf("list sockets of %s: %w", kind.proto, err)
			}
			all = append(all, some...)
		}
	}
	return all, nil
}

// The parts of inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagMessageSize = 72
	diagSource      = 8
	diagInode       = 68
	diagV6Only      = 11 // INET_DIAG_SKV6ONLY
)

func dumpSockets(conn *nfnetlink.Conn, kind socketKind, family uint8) ([]socket, error) {
	request := make([]byte, diagRequestSize)
	request[0], request[1] = family, kind.protocol
	binary.NativeEndian.PutUint32(request[4:], 1<<kind.state)
	reply, err := conn.Execute(nfnetlink.Message{
		Header: nfnetlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: nfnetlink.Request | nfnetlink.Dump},
		Data:   request,
	})
	if err != nil {
		return nil, err
	}
	sockets := make([]socket, 0, len(reply))
	for _, m := range reply {
		s, err := decodeSocket(m.Data)
		if err != nil {
			return nil, err
		}
		s.proto = kind.proto
		sockets = append(sockets, s)
	}
	return sockets, nil
}

func decodeSocket(b []byte) (s socket, err error) {
	if len(b) < diagMessageSize {
		return s, errors.New("answer is too short")
	}
	s.port = binary.BigEndian.Uint16(b[4:])
	s.inode = binary.NativeEndian.Uint32(b[diagInode:])
	source := b[diagSource : diagSource+16]
	if b[0] == unix.AF_INET {
		s.addr = netip.AddrFrom4([4]byte(source))
		return s, nil
	}
	s.addr = netip.AddrFrom16([16]byte(source)).Unmap()
	only, known := attribute(b, diagMessageSize, diagV6Only)
	s.dual = known && len(only) == 1 && only[0] == 0
	return s, nil
}

// hasSocketDump tells whether the kernel lists its sockets. Asking loads the modules.
func hasSocketDump() bool {
	conn, err := nfnetlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return false
	}
	defer conn.Close()
	for _, kind := range socketKinds() {
		if _, err := dumpSockets(conn, kind, unix.AF_INET); err != nil {
			return false
		}
	}
	return true
}

// owner is a process that has a socket open.
type owner struct {
	pid  int
	name string
}

// holders finds processes by their sockets. A port that is held is looked at again and
// again: who had sockets the last time is asked first. Safe for concurrent use.
type holders struct {
	mu   sync.Mutex
	last []int
}

// fdLimit is how many open files are looked at for the owners of sockets in one look.
const fdLimit = 200_000

// of are the owners of sockets, as far as they can be found.
func (h *holders) of(had map[Port][]socket) map[uint32]owner {
	h.mu.Lock()
	defer h.mu.Unlock()
	search := ownerSearch{wanted: map[uint32]bool{}, found: map[uint32]owner{}, left: fdLimit}
	for _, sockets := range had {
		for _, s := range sockets {
			search.wanted[s.inode] = true
		}
	}
	if search.among(h.last); len(search.found) < len(search.wanted) {
		search.among(processes())
	}
	pids := map[int]bool{}
	for _, o := range search.found {
		pids[o.pid] = true
	}
	h.last = slices.Sorted(maps.Keys(pids))
	return search.found
}

// processes are the numbers of all processes, the first made first.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // then nobody is known
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

type ownerSearch struct {
	wanted map[uint32]bool
	found  map[uint32]owner
	left   int
}

// among looks at the open files of processes until all is found. A process that has
// ended, or that may not be looked at, has none.
func (s *ownerSearch) among(pids []int) {
	for _, pid := range pids {
		if len(s.found) == len(s.wanted) || s.left <= 0 {
			return
		}
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		s.left -= len(files)
		for _, f := range files {
			inode, ok := socketInode(filepath.Join(dir, "fd", f.Name()))
			if _, known := s.found[inode]; !ok || known || !s.wanted[inode] {
				continue
			}
			name, _ := os.ReadFile(filepath.Join(dir, "comm")) // it is named by its number where it just ended
			s.found[inode] = owner{pid, strings.TrimSpace(string(name))}
		}
	}
}

func socketInode(path string) (uint32, bool) {
	target, err := os.Readlink(path)
	number, is := strings.CutPrefix(target, "socket:[")
	if err != nil || !is {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 32)
	return uint32(inode), err == nil
}
