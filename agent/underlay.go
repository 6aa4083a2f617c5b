package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// underlay follows this node's own address. The node stays who it is: its ID is not its
// address, so what has moved is one line of its record, and where gossip listens.
//
// It moves only where the address that it has is the host's no longer. A default route
// that goes another way, into a VPN say, is no reason: the other nodes may not reach what
// is there.
type underlay struct {
	cluster   *cluster
	loop      *loop
	advertise netip.Addr // as configured; the zero address: the default route's
	log       *slog.Logger
}

func newUnderlay(c *cluster, l *loop, cfg Config) *underlay {
	return &underlay{cluster: c, loop: l, advertise: cfg.Advertise, log: cfg.Log}
}

const (
	underlaySettle = 300 * time.Millisecond // an address that is set anew is back by then
	underlayRetry  = time.Second            // where there is none, or gossip could not listen there yet
)

// run ends with ctx.
func (u *underlay) run(ctx context.Context) error {
	look := time.NewTimer(0) // it may have moved while the agent started
	defer look.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-u.loop.machine.Moved():
			look.Reset(underlaySettle)
			continue
		case <-look.C:
		}
		err := u.follow(ctx)
		if err == nil {
			told = ""
			continue
		}
		if text := err.Error(); text != told && ctx.Err() == nil {
			told = text
			u.log.Warn("this node's address is not followed", "err", err)
		}
		look.Reset(underlayRetry)
	}
}

// follow makes the cluster know this node as its host is now.
func (u *underlay) follow(ctx context.Context) error {
	have := u.cluster.self()
	var addr netip.Addr
	var mtu int
	err := u.loop.withMachine(ctx, func(m Machine) error {
		var err error
		addr, mtu, err = m.Underlay(have.Addr)
		if none, ok := errors.AsType[*kernel.Refusal](err); ok && none.Reason == kernel.NoUnderlay && !u.advertise.IsValid() {
			addr, mtu, err = m.Underlay(netip.Addr{})
		}
		return err
	})
	if err != nil {
		return err
	}
	return u.cluster.move(ctx, addr, mtu)
}

// self is this node as its configuration and its host describe it now.
func (c *cluster) self() mesh.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own
}

// listens is where other nodes reach this node's gossip.
func (c *cluster) listens() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gossip
}

// move writes this node's record where its address or MTU is another than before, and
// lets gossip listen at the address. Asked again after an error it goes on from there.
func (c *cluster) move(ctx context.Context, addr netip.Addr, mtu int) error {
	// Without a word of farewell: it would be sent from an address that is gone.
	if err := c.hush(func() error { return c.relocate(addr, mtu) }, nil); err != nil && !errors.Is(err, errStays) {
		return err
	}
	if _, err := c.update(c.refreshOwn); err != nil {
		if mesh.ReasonOf(err) == NoCluster {
			return nil
		}
		return err
	}
	return c.regossip(ctx)
}

// relocate takes the address up; errStays where it is the same. The lock is held.
func (c *cluster) relocate(addr netip.Addr, mtu int) error {
	next := c.own
	next.Addr, next.MTU = addr, mtu
	if err := next.Validate(); err != nil {
		return err
	}
	if addr == c.own.Addr {
		c.own.MTU = mtu
		return errStays
	}
	if c.phase == entering {
		return mesh.Refuse(InCluster, "wait until it has ended", "an init or join is under way")
	}
	for _, n := range c.snapshotLocked().Networks {
		if err := next.Outside(n.Subnets()...); err != nil {
			return err
		}
	}
	c.log.Info("this node moved", "from", c.own.Addr, "to", addr)
	c.own.Addr, c.own.MTU = addr, mtu
	c.gossip = netip.AddrPortFrom(addr, c.gossip.Port())
	return nil
}

// remeet is how long a node that moved looks for others before gossip goes on doing so.
const remeet = 3 * time.Second
