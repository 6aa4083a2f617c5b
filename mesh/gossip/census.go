package gossip

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"

	"github.com/sluice-mesh/sluice/mesh"
)

// A census asks all members at once which records they hold, by a datagram each: for people,
// who want to know whether a cluster agrees. What is to be so is the exchanges' affair.

// The first bytes of its messages, where records have wireVersion. All that follows is text.
const (
	censusAsk    = 3 // number, ID of who asks
	censusAnswer = 4 // number, ID of who answers, root
)

const censusNumber = 16 // hex characters by which answers find their question

// census holds the questions that wait for answers. Safe for concurrent use.
type census struct {
	mu   sync.Mutex
	open map[string]chan vote
}

type vote struct {
	node mesh.NodeID
	root mesh.Sum
}

// Census asks all members that are alive for the root of their records, and returns what
// came until all had answered or ctx ended. Who is missing did not answer in time.
func (g *Gossip) Census(ctx context.Context) map[mesh.NodeID]mesh.Sum {
	others := g.members.others()
	var raw [censusNumber / 2]byte
	rand.Read(raw[:]) // never fails: it ends the program where there is no randomness
	number := hex.EncodeToString(raw[:])
	votes := make(chan vote, len(others))
	g.census.begin(number, votes)
	defer g.census.end(number)
	msg := append([]byte{censusAsk}, number+string(g.id)...)
	for _, n := range others {
		if err := g.list.SendBestEffort(n, msg); err != nil {
			g.book.Debug("datagram not sent", "node", n.Name, "err", err)
		}
	}
	found := map[mesh.NodeID]mesh.Sum{}
	for len(found) < len(others) {
		select {
		case v := <-votes:
			found[v.node] = v.root
		case <-ctx.Done():
			return found
		case <-g.ctx.Done():
			return found
		}
	}
	return found
}

func (c *census) begin(number string, votes chan vote) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[string]chan vote{}
	}
	c.open[number] = votes
}

func (c *census) end(number string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, number)
}

// counted gives an answer to whoever asked; one that nobody asked for is dropped.
func (c *census) counted(number string, v vote) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.open[number] <- v: // never where there is none: nil
	default:
	}
}

// hearCensus takes a question or an answer in. It came sealed by the key of gossip, which is
// enough for what it does: nothing but a person's knowledge depends on it.
func (g *Gossip) hearCensus(msg []byte) {
	number, id, rest, ok := splitCensus(msg)
	if !ok {
		g.book.Warn("gossip message refused", "kind", "census", "bytes", len(msg))
		return
	}
	if msg[0] == censusAnswer {
		root, err := hex.DecodeString(rest)
		if err == nil && len(root) == mesh.SumSize {
			g.census.counted(number, vote{id, mesh.Sum(root)})
		}
		return
	}
	asker := g.members.get(id)
	if asker == nil {
		return // it is not alive by what is known here, or no node
	}
	root := g.state.Root()
	answer := append([]byte{censusAnswer}, number+string(g.id)+hex.EncodeToString(root[:])...)
	if err := g.list.SendBestEffort(asker, answer); err != nil {
		g.book.Debug("datagram not sent", "node", asker.Name, "err", err)
	}
}

// splitCensus gives the parts of a message; rest is the root of an answer.
func splitCensus(msg []byte) (number string, id mesh.NodeID, rest string, ok bool) {
	const head = 1 + censusNumber + mesh.IDLength
	if len(msg) < head || len(msg) > head+2*mesh.SumSize {
		return "", "", "", false
	}
	number, id, rest = string(msg[1:1+censusNumber]), mesh.NodeID(msg[1+censusNumber:head]), string(msg[head:])
	return number, id, rest, id.Validate() == nil
}
