package kernel

import (
	"encoding/binary"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// writers are the processes that change nft rules for us: the last nft programs
// that were started. Their events come after they have ended. Safe for concurrent use.
type writers struct {
	mu     sync.Mutex
	recent [64]uint32 // process numbers
	next   int
}

// add is called with a process that was started just now.
func (w *writers) add(pid int) {
	if w == nil {
		return // nobody watches
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recent[w.next] = uint32(pid)
	w.next = (w.next + 1) % len(w.recent)
}

func (w *writers) has(socket uint32) bool {
	if socket == uint32(os.Getpid()) {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return socket != 0 && slices.Contains(w.recent[:], socket)
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
