package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// Word that flows are over goes by stream to the nodes that it is for, and no further: it
// is too late after a second, and of no use to others.

// overVersion is the first byte of such a message, where records have wireVersion.
const overVersion = 2

// overTries is how often it is sent to a node whose stream fails.
const overTries = 3

// A word is signed as a record is, and its kind, which no record has, keeps the two apart.
const overKind mesh.Kind = "over"

type wireOver struct {
	Kind    mesh.Kind    `json:"k"`
	Node    mesh.NodeID  `json:"w"`
	To      mesh.NodeID  `json:"t"`
	Stay    stay         `json:"y"`           // of who it is for
	Own     stay         `json:"o,omitempty"` // of who says it
	Number  uint64       `json:"q"`
	Senders []wireSender `json:"s"`
}

// A word is true once, and whoever has the key of gossip can send it again. So it is for one
// node, for as long as that one has been up, and has a number, which is taken once of each stay
// of who says it.

// word is what one node says to another.
type word struct {
	mesh.Over
	to     mesh.NodeID
	stay   stay
	own    stay // "" of a node of the version before
	number uint64
}

type wireSender struct {
	Proto  mesh.Proto     `json:"x"`
	Client netip.AddrPort `json:"c"`
}

// TellOver tells those of the nodes that are alive that flows are over, and returns when
// each has taken it or failed to, or ctx ends. An error names the nodes that do not know.
func (g *Gossip) TellOver(ctx context.Context, over mesh.Over, nodes []mesh.NodeID) error {
	var parts []mesh.Over
	for senders := range slices.Chunk(over.Senders, mesh.OverLimit) {
		part := mesh.Over{Node: over.Node, Senders: senders}
		if err := part.Validate(); err != nil {
			return err
		}
		parts = append(parts, part)
	}
	return g.do(ctx, func() error { return g.sendOver(parts, nodes) })
}

func (g *Gossip) sendOver(parts []mesh.Over, nodes []mesh.NodeID) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var untold []string
	for _, n := range g.members.others() {
		if !slices.Contains(nodes, mesh.NodeID(n.Name)) {
			continue
		}
		group.Go(func() {
			if err := g.sendEach(n, parts); err != nil {
				mu.Lock()
				defer mu.Unlock()
				untold = append(untold, fmt.Sprintf("%s: %v", n.Name, err))
			}
		})
	}
	group.Wait()
	if len(untold) == 0 {
		return nil
	}
	slices.Sort(untold)
	return fmt.Errorf("tell that flows are over: %v", untold)
}

func (g *Gossip) sendEach(n *memberlist.Node, parts []mesh.Over) error {
	for _, part := range parts {
		msg, err := g.say(part, mesh.NodeID(n.Name))
		if err != nil {
			return err
		}
		for range overTries {
			if err = g.list.SendReliable(n, msg); err == nil || g.ctx.Err() != nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// say gives the next number to a word for a node.
func (g *Gossip) say(over mesh.Over, to mesh.NodeID) ([]byte, error) {
	return encodeOver(word{Over: over, to: to, stay: g.members.stay(to), own: g.said.own, number: g.said.next(to)}, g.signer)
}

func encodeOver(say word, s Signer) ([]byte, error) {
	w := wireOver{Kind: overKind, Node: say.Node, To: say.to, Stay: say.stay, Own: say.own, Number: say.number, Senders: make([]wireSender, len(say.Senders))}
	for i, s := range say.Senders {
		w.Senders[i] = wireSender(s)
	}
	text, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode flows that are over: %w", err)
	}
	msg := append([]byte{overVersion}, text...)
	if s == nil {
		return msg, nil
	}
	return signatureText().AppendEncode(append(msg, '\t'), s.Sign(text)), nil
}

func decodeOver(msg []byte, v Verifier) (word, error) {
	text, signature, signed := bytes.Cut(msg[1:], []byte{'\t'})
	var w wireOver
	if err := json.Unmarshal(text, &w); err != nil {
		return word{}, fmt.Errorf("decode flows that are over: %w", err)
	}
	if w.Kind != overKind || w.Own != "" && len(w.Own) != stayLength {
		return word{}, mesh.Refuse(mesh.BadRecord, "update the node that sent it", "a word on flows is of kind %.20q, said in %.20q", string(w.Kind), string(w.Own))
	}
	if v != nil {
		var sig []byte
		if signed {
			var err error
			if sig, err = decodeSignature(signature); err != nil {
				return word{}, err
			}
		}
		// Who says it must be a member: it comes by the key of gossip alone.
		err := v.Verify(w.Node, text, sig)
		if err == nil {
			err = v.Admit(mesh.Record{Version: mesh.Version{Writer: w.Node}})
		}
		if err != nil {
			return word{}, fmt.Errorf("verify flows that are over by %.40q: %w", string(w.Node), err)
		}
	}
	said := word{to: w.To, stay: w.Stay, own: w.Own, number: w.Number, Over: mesh.Over{Node: w.Node, Senders: make([]mesh.Sender, len(w.Senders))}}
	for i, s := range w.Senders {
		said.Senders[i] = mesh.Sender(s)
	}
	if err := said.Validate(); err != nil {
		return word{}, fmt.Errorf("check flows that are over: %w", err)
	}
	return said, nil
}

// over takes a message in.
func (d *delegate) over(msg []byte) {
	said, err := decodeOver(msg, d.verifier)
	if err == nil {
		err = d.fresh(said)
	}
	if err != nil {
		d.book.Warn("gossip message refused", "err", err)
		return
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	if !d.closed {
		d.state.FlowsOver(said.Over)
	}
}

// fresh refuses a word that is not for this node as it is now, or was heard before.
func (d *delegate) fresh(said word) error {
	if said.to == d.self && said.stay == *d.stay.Load() {
		if d.words.take(said.Node, said.own, said.number) || d.renew(said) {
			return nil
		}
	}
	if said.to == "" && said.stay == "" && said.number == 0 {
		return mesh.Refuse(UnknownVersion, "update sluice on that node", "a word of node %s that flows are over has no number", said.Node)
	}
	return mesh.Refuse(Replayed, "nothing, unless it goes on: then somebody has the gossip key, and sends again what a node said before",
		"word %d of node %s that flows are over, to node %.40q, was not for now", said.number, said.Node, string(said.to))
}

// renew tells whether all words can be forgotten as there is no room for one more. That one was
// not heard before, and it and those before it are for a stay that is over. It may be made so by a
// member, so it is not often.
func (d *delegate) renew(said word) bool {
	now := time.Now()
	if d.words.room(said.Node, said.own) || now.Before(d.renewAt) {
		return false
	}
	next := newStay()
	d.stay.Store(&next)
	d.words, d.renewAt = words{}, now.Add(renewPause)
	signal(d.renewed)
	return true
}

// stayTold is how long is waited until another stay is on its way.
const stayTold = time.Second

// tellStay tells the others by memberlist.
func (g *Gossip) tellStay() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.in.renewed:
			if err := g.list.UpdateNode(stayTold); err != nil {
				g.book.Debug("a new stay is not on its way yet", "err", err)
			}
		}
	}
}
