package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// writers are the netlink sockets that change nft rules for us: our own, and those of the
// last nft programs that were started. A socket's number is its process's, but for all
// except the first of a process in a namespace. Events may come after their socket is
// closed. Safe for concurrent use.
type writers struct {
	mu     sync.Mutex
	open   map[uint32]int // our own: how many namespaces have one of this number
	recent [64]uint32     // programs', and own ones that are closed
	next   int
}

// add is called with a process that was started just now.
func (w *writers) add(pid int) {
	if w == nil {
		return // nobody watches
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remember(uint32(pid))
}

func (w *writers) remember(socket uint32) {
	w.recent[w.next] = socket
	w.next = (w.next + 1) % len(w.recent)
}

// opened is called with the number of an own socket before it changes anything, and
// closed when it will change nothing more.
func (w *writers) opened(socket uint32) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[uint32]int{}
	}
	w.open[socket]++
}

func (w *writers) closed(socket uint32) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[socket]--; w.open[socket] <= 0 {
		delete(w.open, socket)
	}
	w.remember(socket)
}

func (w *writers) has(socket uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return socket != 0 && (w.open[socket] > 0 || slices.Contains(w.recent[:], socket))
}

// socketNumber is the number by which the kernel knows a netlink socket (nl_pid).
func socketNumber(sock *nfnetlink.Conn) (uint32, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	var address unix.Sockaddr
	if fault := raw.Control(func(fd uintptr) { address, err = unix.Getsockname(int(fd)) }); fault != nil || err != nil {
		return 0, errors.Join(fault, err)
	}
	own, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		return 0, fmt.Errorf("%T is no netlink address", address)
	}
	return own.Pid, nil
}

// nfgenLength is the length of nfgenmsg, which begins every nft message.
const nfgenLength = 4

// tableName is the type of the attribute with the table's name; it is the same
// in the messages of all kinds of objects.
const tableName = unix.NFTA_TABLE_NAME

// hearNFT takes in nft's events: those of one transaction, and then one that
// says whose it was.
func (w *watcher) hearNFT(buffer []byte, own *writers, note func(Drift)) error {
	lost, err := receive(w.nft, buffer, func(m syscall.NetlinkMessage) {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return
		}
		if m.Header.Type&0xff != unix.NFT_MSG_NEWGEN {
			w.meet(m)
			return
		}
		if !own.has(m.Header.Pid) {
			for _, kind := range w.touched {
				note(Drift{Sandbox: w.name, Kind: string(kind), By: nftWriter(m)})
			}
		}
		w.touched = nil
	})
	if lost {
		w.touched = nil
		note(Drift{Sandbox: w.name})
	}
	return err
}

// meet keeps what an event of the transaction under way is about. In the host others'
// chains and rules are of interest too: they may drop what we forward. Those that only
// translate addresses do not.
func (w *watcher) meet(m syscall.NetlinkMessage) {
	name, _ := attribute(m.Data, nfgenLength, tableName)
	kind := step("")
	switch table := text(name); {
	case table == plan.TableName:
		kind = stepNFT
	case w.kind != plan.KindHost || table == "nat" || table == "raw":
	case table == plan.UserTable:
		kind = stepUser
	case m.Header.Type&0xff <= unix.NFT_MSG_DELRULE: // tables, chains, rules; sets come after
		kind = stepPass
	}
	if kind != "" && !slices.Contains(w.touched, kind) {
		w.touched = append(w.touched, kind)
	}
}

// nftWriter is who made a transaction; the kernel tells the name with it.
func nftWriter(m syscall.NetlinkMessage) string {
	name, _ := attribute(m.Data, nfgenLength, unix.NFTA_GEN_PROC_NAME)
	pid, ok := attribute(m.Data, nfgenLength, unix.NFTA_GEN_PROC_PID)
	if !ok || len(pid) != 4 {
		return text(name)
	}
	return named(text(name), binary.BigEndian.Uint32(pid))
}
