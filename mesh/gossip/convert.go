package gossip

import "github.com/sluice-mesh/sluice/mesh"

func toWire(r mesh.Record) wireRecord {
	w := wireRecord{
		Kind: r.Kind, ID: r.ID, Time: r.Version.Time, Writer: r.Version.Writer,
		Claim: r.Claim, Deleted: r.Deleted, FreedBy: r.FreedBy, Token: (*wireToken)(r.Token),
		Removal: (*wireRemoval)(r.Removal), Rotation: (*wireRotation)(r.Rotation), Keyring: (*wireKeyring)(r.Keyring),
		Freed: each(r.Freed, func(f mesh.Freed) wireFreed { return wireFreed(f) }),
	}
	if n := r.Network; n != nil {
		w.Network = &wireNetwork{
			ID: n.ID, Name: n.Name, Subnet4: n.Subnet4, Subnet6: n.Subnet6, Bits4: n.Bits4, VNI: n.VNI, EntryVNI: n.EntryVNI, Pool: n.Pool,
			More: each(n.More, func(s mesh.Subnet) wireSubnet { return wireSubnet(s) }),
		}
	}
	if n := r.Node; n != nil {
		w.Node = &wireNode{
			ID: n.ID, Name: n.Name, Addr: n.Addr, GossipPort: n.GossipPort, VXLANPort: n.VXLANPort, MTU: n.MTU, Slot: n.Slot, SlotClaim: n.SlotClaim, Cert: n.Cert, Synced: n.Synced,
			Blocks: each(n.Blocks, func(b mesh.Block) wireBlock { return wireBlock(b) }),
			Held:   each(n.Held, func(h mesh.HeldPort) wireHeld { return wireHeld(h) }),
			Routes: each(n.Routes, func(r mesh.Route) wireRoute { return wireRoute(r) }),
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
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight, Fixed: e.Fixed,
			Attached: each(e.Attached, func(a mesh.Attachment) wireAttachment { return wireAttachment(a) }),
			Left:     each(e.Left, func(f mesh.Freed) wireFreed { return wireFreed(f) }),
		}
	}
	return w
}

func (w wireRecord) record() mesh.Record {
	r := mesh.Record{
		Kind: w.Kind, ID: w.ID, Version: mesh.Version{Time: w.Time, Writer: w.Writer},
		Claim: w.Claim, Deleted: w.Deleted, FreedBy: w.FreedBy, Token: (*mesh.Token)(w.Token),
		Removal: (*mesh.Removal)(w.Removal), Rotation: (*mesh.Rotation)(w.Rotation), Keyring: (*mesh.Keyring)(w.Keyring),
		Freed: each(w.Freed, func(f wireFreed) mesh.Freed { return mesh.Freed(f) }),
	}
	if n := w.Network; n != nil {
		r.Network = &mesh.Network{
			ID: n.ID, Name: n.Name, Subnet4: n.Subnet4, Subnet6: n.Subnet6, Bits4: n.Bits4, VNI: n.VNI, EntryVNI: n.EntryVNI, Pool: n.Pool,
			More: each(n.More, func(s wireSubnet) mesh.Subnet { return mesh.Subnet(s) }),
		}
	}
	if n := w.Node; n != nil {
		r.Node = &mesh.Node{
			ID: n.ID, Name: n.Name, Addr: n.Addr, GossipPort: n.GossipPort, VXLANPort: n.VXLANPort, MTU: n.MTU, Slot: n.Slot, SlotClaim: n.SlotClaim, Cert: n.Cert, Synced: n.Synced,
			Blocks: each(n.Blocks, func(b wireBlock) mesh.Block { return mesh.Block(b) }),
			Held:   each(n.Held, func(h wireHeld) mesh.HeldPort { return mesh.HeldPort(h) }),
			Routes: each(n.Routes, func(r wireRoute) mesh.Route { return mesh.Route(r) }),
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
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight, Fixed: e.Fixed,
			Attached: each(e.Attached, func(a wireAttachment) mesh.Attachment { return mesh.Attachment(a) }),
			Left:     each(e.Left, func(f wireFreed) mesh.Freed { return mesh.Freed(f) }),
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
