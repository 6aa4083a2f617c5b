package gossip

import "github.com/sluice-mesh/sluice/mesh"

func toWire(r mesh.Record) wireRecord {
	w := wireRecord{
		Kind: r.Kind, ID: r.ID, Time: r.Version.Time, Writer: r.Version.Writer,
		Claim: r.Claim, Deleted: r.Deleted, Network: (*wireNetwork)(r.Network), Token: (*wireToken)(r.Token),
		Removal: (*wireRemoval)(r.Removal), Rotation: (*wireRotation)(r.Rotation), Keyring: (*wireKeyring)(r.Keyring),
	}
	if n := r.Node; n != nil {
		w.Node = &wireNode{
			ID: n.ID, Name: n.Name, Addr: n.Addr, GossipPort: n.GossipPort, VXLANPort: n.VXLANPort, MTU: n.MTU, Slot: n.Slot, SlotClaim: n.SlotClaim, Cert: n.Cert, Synced: n.Synced,
			Blocks: each(n.Blocks, func(b mesh.Block) wireBlock { return wireBlock(b) }),
			Held:   each(n.Held, func(h mesh.HeldPort) wireHeld { return wireHeld(h) }),
		}
	}
	if s := r.Service; s != nil {
		w.Service = &wireService{
			ID: s.ID, Name: s.Name, Networks: s.Networks, Scheduler: s.Scheduler, Affinity: s.Affinity,
			Publish: each(s.Publish, func(p mesh.PublishedPort) wirePublished { return wirePublished(p) }),
		}
	}
	if e := r.Endpoint; e != nil {
		w.Endpoint = &wireEndpoint{
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight,
			Attached: each(e.Attached, func(a mesh.Attachment) wireAttachment { return wireAttachment(a) }),
		}
	}
	return w
}

func (w wireRecord) record() mesh.Record {
	r := mesh.Record{
		Kind: w.Kind, ID: w.ID, Version: mesh.Version{Time: w.Time, Writer: w.Writer},
		Claim: w.Claim, Deleted: w.Deleted, Network: (*mesh.Network)(w.Network), Token: (*mesh.Token)(w.Token),
		Removal: (*mesh.Removal)(w.Removal), Rotation: (*mesh.Rotation)(w.Rotation), Keyring: (*mesh.Keyring)(w.Keyring),
	}
	if n := w.Node; n != nil {
		r.Node = &mesh.Node{
			ID: n.ID, Name: n.Name, Addr: n.Addr, GossipPort: n.GossipPort, VXLANPort: n.VXLANPort, MTU: n.MTU, Slot: n.Slot, SlotClaim: n.SlotClaim, Cert: n.Cert, Synced: n.Synced,
			Blocks: each(n.Blocks, func(b wireBlock) mesh.Block { return mesh.Block(b) }),
			Held:   each(n.Held, func(h wireHeld) mesh.HeldPort { return mesh.HeldPort(h) }),
		}
	}
	if s := w.Service; s != nil {
		r.Service = &mesh.Service{
			ID: s.ID, Name: s.Name, Networks: s.Networks, Scheduler: s.Scheduler, Affinity: s.Affinity,
			Publish: each(s.Publish, func(p wirePublished) mesh.PublishedPort { return mesh.PublishedPort(p) }),
		}
	}
	if e := w.Endpoint; e != nil {
		r.Endpoint = &mesh.Endpoint{
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight,
			Attached: each(e.Attached, func(a wireAttachment) mesh.Attachment { return mesh.Attachment(a) }),
		}
	}
	return r
}

func each[A, B any](list []A, f func(A) B) []B {
	if len(list) == 0 {
		return nil
	}
	out := make([]B, len(list))
	for i, x := range list {
		out[i] = f(x)
	}
	return out
}
