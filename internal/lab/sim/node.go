package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/agent"
)

// gossipPort is where every node listens.
const gossipPort = 7956

// Node is a machine of a World with an agent's state plane on it. What is done to the process
// is done by one goroutine in order; the rest is safe for concurrent use.
type Node struct {
	Name string

	world *World
	at    netip.AddrPort
	host  *Host
	disk  *agent.Medium
	disks int // how many it lost
	todo  chan func()

	plane  atomic.Pointer[agent.Plane] // nil while no process runs
	paused atomic.Bool
	skew   atomic.Int64 // nanoseconds that its clock is wrong
	broken atomic.Bool  // the disk fails
}

func newNode(w *World, i int) *Node {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	addr = addr.Next() // .0 is none
	return &Node{
		Name: fmt.Sprintf("n%d", i), world: w, at: netip.AddrPortFrom(addr, gossipPort),
		host: w.Net.Host(addr), todo: make(chan func(), 1000), disk: new(agent.Medium),
	}
}

// epoch is what a bubble's clock, which begins in 2000, is behind: agents do not trust a clock
// that was never set.
const epoch = 27 * 365 * 24 * time.Hour

// now is the node's wall clock.
func (n *Node) now() time.Time { return time.Now().Add(epoch + time.Duration(n.skew.Load())) }

var errDisk = errors.New("no space left on device (simulated)")

// fault makes the writes of a broken disk fail, half of them after they have happened.
func (n *Node) fault() error {
	if n.broken.Load() && n.world.coin() {
		return errDisk
	}
	return nil
}

// retryPause is how long a start or a join that failed waits to be tried again, as a service
// manager waits.
const retryPause = time.Second

// start runs a process on the machine and returns when it is a member.
func (n *Node) start(ctx context.Context) {
	if n.plane.Load() != nil {
		return
	}
	n.host.PowerOn()
	for ctx.Err() == nil {
		p, err := n.open()
		if err == nil {
			n.plane.Store(p)
			break
		}
		n.world.note("not started", "node", n.Name, "err", err)
		sleep(ctx, retryPause)
	}
	n.join(ctx, netip.AddrPort{})
}

func (n *Node) open() (*agent.Plane, error) {
	return agent.OpenPlane(agent.PlaneConfig{
		Disk: n.disk, Name: n.Name, Gossip: n.at, Network: n.host, Now: n.now, Fault: n.fault, Log: n.world.log.With("node", n.Name),
	})
}

// join makes a process that knows no cluster a member of the world's, by the node at an address if
// that is a member, or any other.
func (n *Node) join(ctx context.Context, by netip.AddrPort) {
	p := n.plane.Load()
	for p != nil && ctx.Err() == nil && p.Alive() == nil {
		seed := n.world.another(n, by)
		if seed == nil {
			sleep(ctx, retryPause)
			continue
		}
		if err := p.Join(ctx, seed.at, seed.token()); err != nil {
			n.world.note("not joined", "node", n.Name, "by", seed.Name, "err", err)
			sleep(ctx, retryPause/2+rand.N(retryPause))
		}
	}
}

// again lets a process that is a member of nothing any more join anew.
func (n *Node) again(ctx context.Context, p *agent.Plane) {
	by, out := p.Outcast()
	if n.plane.Load() != p || !out {
		return
	}
	n.world.note("leaves to join again", "node", n.Name, "by", by)
	if err := p.Leave(ctx); err != nil {
		n.world.note("not left", "node", n.Name, "err", err)
		return
	}
	n.world.note("joins again", "node", n.Name, "by", by)
	n.disks++ // what it alone had is lost
	n.join(ctx, by)
}

// token is one by which others join this node now: that of the beginning is of no use once
// a node was removed.
func (n *Node) token() string {
	if p := n.plane.Load(); p != nil {
		if token, err := p.Token(); err == nil {
			return token
		}
	}
	return n.world.token
}

// crash kills the process.
func (n *Node) crash() {
	if p := n.plane.Swap(nil); p != nil {
		n.world.check("crash "+n.Name, p.Crash())
		n.host.Hangup()
	}
}

// stop ends it in order.
func (n *Node) stop() {
	if p := n.plane.Swap(nil); p != nil {
		n.world.check("stop "+n.Name, ignore(p.Close(), errDisk))
		n.host.Hangup()
	}
}

// powerOff takes the machine's power.
func (n *Node) powerOff() {
	n.host.PowerOff()
	n.crash()
}

// wipe kills the process and loses its disk.
func (n *Node) wipe() {
	n.crash()
	n.disk = new(agent.Medium)
	n.disks++
}

func (n *Node) pause() {
	n.paused.Store(true)
	n.host.Pause()
}

func (n *Node) resume() {
	n.host.Resume()
	n.paused.Store(false)
}

// run does what is to be done until todo is closed.
func (n *Node) run() {
	for f := range n.todo {
		f()
	}
}

// ignore drops an error that is expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
