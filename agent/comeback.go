package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// A node that was away while another was removed believes a CA that the others have left. They
// refuse it, it notices, and asks one of them what it missed: trust.Return.

const (
	returnPause = 500 * time.Millisecond // between two tries
	returnAsks  = 4                      // peers of a try: one may be as far behind as this node
	returnDial  = 2 * time.Second
)

// comeBacks tries whenever a peer does not believe this node, until ctx ends.
func (c *cluster) comeBacks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case peer := <-c.refused:
			c.comeBackBy(ctx, peer)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(returnPause):
		}
	}
}

// comeBackBy asks who refused this node, and a few others where that one cannot help.
func (c *cluster) comeBackBy(ctx context.Context, peer netip.AddrPort) {
	peers := c.Peers()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	peers = append([]netip.AddrPort{peer}, peers[:min(len(peers), returnAsks-1)]...)
	for _, peer := range peers {
		came, err := c.comeBack(ctx, peer)
		if came || ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		c.log.Warn("this node is not let back in", "peer", peer, "err", err)
		if mesh.ReasonOf(err) == NodeRemoved {
			c.mu.Lock()
			c.outcast = err
			c.mu.Unlock()
		}
	}
}

// comeBack asks a node that does not believe this one's certificate for the keys of now, and
// tells whether it got them.
func (c *cluster) comeBack(ctx context.Context, peer netip.AddrPort) (came bool, err error) {
	m, snap := c.membership()
	if m == nil {
		return false, nil
	}
	var fault error
	known := m.generations(c.steps.of(snap))
	slices.Reverse(known)
	for _, a := range known {
		bundle, err := c.returned(ctx, peer, a)
		switch {
		case err == nil && bundle.Authority.Compare(m.bundle.Authority) > 0:
			return true, c.adopt(ctx, m, bundle)
		case err == nil:
			return false, nil // it is the other one that is behind
		case mesh.ReasonOf(err) != trust.WrongCluster:
			return false, err
		}
		fault = err
	}
	return false, fault
}

func (c *cluster) returned(ctx context.Context, peer netip.AddrPort, a *trust.Authority) (trust.Bundle, error) {
	dialling, cancel := context.WithTimeout(ctx, returnDial)
	defer cancel()
	conn, err := c.network.Dial(dialling, peer)
	if err != nil {
		return trust.Bundle{}, err
	}
	defer conn.Close()
	return trust.Return(ctx, conn, trust.Returning{Key: c.key, Authority: a, Now: c.now, Believed: func(maker mesh.NodeID) error {
		if !c.isMember(maker) {
			return mesh.Refuse(NodeRemoved, "run 'sluice leave' and join again with a new token",
				"the new keys were made by node %s, which was removed or is not known here", maker)
		}
		return nil
	}})
}

// successions lead a node that was away from the CA that it knows to the present one.
func (c *cluster) successions(node mesh.NodeID, from trust.Pin) ([][]byte, error) {
	m, snap := c.membership()
	if m == nil {
		return nil, noCluster()
	}
	if !c.mayReturn(node) {
		return nil, notOfThis(node)
	}
	steps, ok := way(c.steps.of(snap), from, m.bundle.Authority.Pin())
	if !ok {
		return nil, mesh.Refuse(trust.WrongCluster, "let it join by a new token", "no way is known from the CA that node %s knows", node)
	}
	// Each set of keys is for those who were nodes when it was made. Who came by a removed
	// node in its last moments is not among them.
	if len(steps) > 0 && !steps[0].sealedTo(node) {
		return nil, notOfThis(node)
	}
	var successions [][]byte
	for _, s := range steps {
		successions = append(successions, s.Succession)
	}
	return successions, nil
}

func notOfThis(node mesh.NodeID) error {
	return mesh.Refuse(NodeRemoved, "run 'sluice leave' there, or 'sluice reset' where it was removed, and let it join by a new token", "node %s is none of this cluster", node)
}

// mayReturn tells whether a node is one of this cluster: neither removed, nor left by its own
// word, nor never met. A record that another one deleted by mistake its node writes again.
func (c *cluster) mayReturn(node mesh.NodeID) bool {
	r, ok := c.nodeRecord(node)
	return ok && (!r.Deleted || r.Version.Writer != node)
}

// watchedConn notices that the other side does not believe this node's certificate: TLS 1.3
// says so only where something is read.
type watchedConn struct {
	net.Conn
	refused func()
}

// Read tells what it notices.
func (w watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil && trust.RefusedByPeer(err) {
		w.refused()
	}
	return n, err
}

// refuses notes that a peer does not believe this node.
func (c *cluster) refuses(peer net.Addr) {
	at, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return
	}
	select {
	case c.refused <- at:
	default: // one is asked already
	}
}

// outcastProblem is for status: the others take this node for none of theirs.
func (c *cluster) outcastProblem() []problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outcast == nil || c.phase != inside {
		return nil
	}
	return []problem{{problemKey: problemKey{"cluster", string(NodeRemoved)}, detail: c.outcast.Error()}}
}

// lineageText is a list of CAs as the store keeps it: each DER certificate by its length.
func lineageText(list []*trust.Authority) []byte {
	var b bytes.Buffer
	for _, a := range list {
		der := a.Certificate()
		b.Write([]byte{byte(len(der) >> 8), byte(len(der))})
		b.Write(der)
	}
	return b.Bytes()
}

func parseLineage(text []byte) ([]*trust.Authority, error) {
	var list []*trust.Authority
	for len(text) > 0 {
		if len(text) < 2 {
			return nil, errors.New("the list of CAs is cut")
		}
		n := int(text[0])<<8 | int(text[1])
		if text = text[2:]; len(text) < n {
			return nil, errors.New("the list of CAs is cut")
		}
		a, err := trust.ParseAuthority(text[:n])
		if err != nil {
			return nil, fmt.Errorf("a CA of before: %w", err)
		}
		list, text = append(list, a), text[n:]
	}
	return list, nil
}
