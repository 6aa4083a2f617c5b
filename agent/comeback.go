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
		if err != nil {
			c.log.Warn("this node is not let back in", "peer", peer, "err", err)
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
	counts := c.makers(m, snap)
	got, err := c.returned(ctx, peer, m.known(m.ways(c.steps.of(snap)), counts), counts)
	if got.Answers != nil && got.Answers.Compare(m.bundle.Authority) <= 0 {
		return false, nil // it is the other one that is behind, and knows nothing of this node
	}
	if err != nil {
		c.shutOut(m, peer, got.Proven, err)
		return false, err
	}
	return true, c.adopt(ctx, m, got)
}

// known are the CAs that this node may be led from, the one that it believes first, then the
// newest. Those that it has believed come before those that it only knows of.
func (m *membership) known(w ways, counts func(maker mesh.NodeID) bool) []*trust.Authority {
	list := append(slices.Clone(m.lineage), m.bundle.Authority.Public())
	slices.Reverse(list)
	others := m.generations(w, counts)
	slices.SortFunc(others, func(a, b *trust.Authority) int { return b.Compare(a) })
	for _, a := range others {
		if !slices.ContainsFunc(list, func(b *trust.Authority) bool { return a.Pin() == b.Pin() }) {
			list = append(list, a)
		}
	}
	return list
}

// outcastAfter is how long nodes of a later CA may know no way to it from the one that this node
// believes: they may have missed something themselves, and hear of it soon.
const outcastAfter = 3 * time.Second

// outcastFor is how long that is told after the last time. That others, who are as far behind,
// agree with this node says nothing.
const outcastFor = time.Minute

// outcast is who does not take this node for one of the cluster.
type outcast struct {
	by    netip.AddrPort // where the keys of now are
	since time.Time
	last  time.Time
	err   error // why; nil: it may yet be led back

	proven bool // that it is the cluster that says so
}

func (o *outcast) over(now time.Time) bool { return o == nil || now.Sub(o.last).Abs() > outcastFor }

// shutOut notes that a node of a later CA did not let this one back in. Where that CA is proven to
// follow from this node's, its word that this one is none of the cluster counts; what anybody else
// says who answers at a peer's address has to last, and is told as what it is.
func (c *cluster) shutOut(m *membership, by netip.AddrPort, proven bool, err error) {
	reason := mesh.ReasonOf(err)
	if reason != NodeRemoved && reason != trust.WrongCluster {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.member != m {
		return
	}
	now := c.now()
	if c.outcast.over(now) {
		c.outcast = &outcast{since: now}
	}
	c.outcast.by, c.outcast.last = by, now
	switch {
	case proven && reason == NodeRemoved:
		c.outcast.proven, c.outcast.err = true, err
	case !c.outcast.proven && now.Sub(c.outcast.since) >= outcastAfter:
		c.outcast.err = err
	}
}

func (c *cluster) returned(ctx context.Context, peer netip.AddrPort, known []*trust.Authority, counts func(maker mesh.NodeID) bool) (trust.Returned, error) {
	dialling, cancel := context.WithTimeout(ctx, returnDial)
	defer cancel()
	conn, err := c.network.Dial(dialling, peer)
	if err != nil {
		return trust.Returned{}, err
	}
	defer conn.Close()
	return trust.Return(ctx, conn, trust.Returning{Key: c.key, Known: known, Now: c.now, Believed: func(maker mesh.NodeID) error {
		if !counts(maker) {
			return mesh.Refuse(NodeRemoved, "run 'sluice leave' and join again with a new token",
				"the new keys were made by node %s, which was removed or has no part in the keys of this node", maker)
		}
		return nil
	}})
}

// successions lead a node that was away from one of the CAs that it knows to the present one: the
// first of those that a way is known from. Beside a refusal they show whose it is.
func (c *cluster) successions(node mesh.NodeID, known []trust.Pin) (from trust.Pin, successions [][]byte, err error) {
	m, snap := c.membership()
	if m == nil {
		return from, nil, noCluster()
	}
	ways, present, returns := m.ways(c.steps.of(snap)), m.bundle.Authority.Pin(), c.mayReturn(node)
	err = mesh.Refuse(trust.WrongCluster, "let it join by a new token", "no way is known from the CAs that node %s knows", node)
	if !returns {
		err = notOfThis(node)
	}
	for _, one := range known {
		// Who says to know the present CA shows nothing by it: its certificate is for all to see.
		steps, ok := ways.way(one, present)
		if !ok || one == present {
			continue
		}
		// Each set of keys is for those who were nodes when it was made. Who came by a removed
		// node in its last moments is not among them. For whom it was the record tells alone.
		if returns && steps[0].sealedTo(node) {
			return one, successionsOf(steps), nil
		}
		// Whoever asks is refused, and gets no more of proof than a trail has.
		if successions == nil && (!returns || steps[0].id != "") && len(steps) <= trust.TrailLimit {
			from, successions, err = one, successionsOf(steps), notOfThis(node)
		}
	}
	return from, successions, err
}

func successionsOf(steps []*step) [][]byte {
	var list [][]byte
	for _, s := range steps {
		list = append(list, s.Succession)
	}
	return list
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
	if c.phase != inside || c.outcast.over(c.now()) || c.outcast.err == nil {
		return nil
	}
	reason := trust.WrongCluster
	if c.outcast.proven {
		reason = NodeRemoved
	}
	return []problem{{problemKey: problemKey{"cluster", string(reason)}, detail: fmt.Sprintf("%v; says the node at %s", c.outcast.err, c.outcast.by)}}
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
