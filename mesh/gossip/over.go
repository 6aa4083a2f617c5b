package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"sync"

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
	Senders []wireSender `json:"s"`
}

type wireSender struct {
	Proto  mesh.Proto     `json:"x"`
	Client netip.AddrPort `json:"c"`
}

// TellOver tells those of the nodes that are alive that flows are over, and returns when
// each has taken it or failed to, or ctx ends. An error names the nodes that do not know.
func (g *Gossip) TellOver(ctx context.Context, over mesh.Over, nodes []mesh.NodeID) error {
	var msgs [][]byte
	for part := range slices.Chunk(over.Senders, mesh.OverLimit) {
		msg, err := encodeOver(mesh.Over{Node: over.Node, Senders: part}, g.signer)
		if err != nil {
			return err
		}
		msgs = append(msgs, msg)
	}
	return g.do(ctx, func() error { return g.sendOver(msgs, nodes) })
}

func (g *Gossip) sendOver(msgs [][]byte, nodes []mesh.NodeID) error {
	var group sync.WaitGroup
	var mu sync.Mutex
	var untold []string
	for _, n := range g.members.others() {
		if !slices.Contains(nodes, mesh.NodeID(n.Name)) {
			continue
		}
		group.Go(func() {
			if err := g.sendEach(n, msgs); err != nil {
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

func (g *Gossip) sendEach(n *memberlist.Node, msgs [][]byte) error {
	for _, msg := range msgs {
		var err error
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

func encodeOver(over mesh.Over, s Signer) ([]byte, error) {
	if err := over.Validate(); err != nil {
		return nil, err
	}
	w := wireOver{Kind: overKind, Node: over.Node, Senders: make([]wireSender, len(over.Senders))}
	for i, s := range over.Senders {
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

func decodeOver(msg []byte, v Verifier) (mesh.Over, error) {
	text, signature, signed := bytes.Cut(msg[1:], []byte{'\t'})
	var w wireOver
	if err := json.Unmarshal(text, &w); err != nil {
		return mesh.Over{}, fmt.Errorf("decode flows that are over: %w", err)
	}
	if w.Kind != overKind {
		return mesh.Over{}, mesh.Refuse(mesh.BadRecord, "update the node that sent it", "a word on flows is of kind %.20q", string(w.Kind))
	}
	if v != nil {
		var sig []byte
		if signed {
			var err error
			if sig, err = decodeSignature(signature); err != nil {
				return mesh.Over{}, err
			}
		}
		// Who says it must be a member: it comes by the key of gossip alone.
		err := v.Verify(w.Node, text, sig)
		if err == nil {
			err = v.Admit(mesh.Record{Version: mesh.Version{Writer: w.Node}})
		}
		if err != nil {
			return mesh.Over{}, fmt.Errorf("verify flows that are over by %.40q: %w", string(w.Node), err)
		}
	}
	over := mesh.Over{Node: w.Node, Senders: make([]mesh.Sender, len(w.Senders))}
	for i, s := range w.Senders {
		over.Senders[i] = mesh.Sender(s)
	}
	if err := over.Validate(); err != nil {
		return mesh.Over{}, fmt.Errorf("check flows that are over: %w", err)
	}
	return over, nil
}

// over takes a message in.
func (d *delegate) over(msg []byte) {
	over, err := decodeOver(msg, d.verifier)
	if err != nil {
		d.book.Warn("gossip message refused", "err", err)
		return
	}
	d.gate.RLock()
	defer d.gate.RUnlock()
	if !d.closed {
		d.state.FlowsOver(over)
	}
}
