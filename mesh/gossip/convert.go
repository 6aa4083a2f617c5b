package gossip

import "github.com/sluice-mesh/sluice/mesh"

func toWire(r mesh.Record) wireRecord {
	w := wireRecord{
		Format: formatOf(r), Kind: r.Kind, ID: r.ID, Time: r.Version.Time, Writer: r.Version.Writer,
		Claim: r.Claim, Deleted: r.Deleted, FreedBy: r.FreedBy, Token: (*wireToken)(r.Token),
		Removal: (*wireRemoval)(r.Removal), Rotation: (*wireRotation)(r.Rotation), Keyring: (*wireKeyring)(r.Keyring),
		Freed: each(r.Freed, func(f mesh.Freed) wireFreed { return wireFreed(f) }),
	}
	if n := r.Network; n != nil {
		w.Network = &wireNetwork{
			ID: n.ID, Name: n.Name, Subnet4: n.Subnet4, Subnet6: n.Subnet6, Bits4: n.Bits4, VNI: n.VNI, EntryVNI: n.EntryVNI, Pool: n.Pool,
			Driver: n.Driver, Internal: n.Internal, Apart: n.Apart, MTU: n.MTU, Gateway4: n.Gateway4, Gateway6: n.Gateway6, Routed: n.Routed,
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
			ID: s.ID, Name: s.Name, Networks: s.Networks, Scheduler: s.Scheduler, Affinity: s.Affinity, Aliases: s.Aliases, Stack: s.Stack, Mode: s.Mode,
			Publish: each(s.Publish, func(p mesh.PublishedPort) wirePublished { return wirePublished(p) }),
			Virtual: each(s.Virtual, func(a mesh.Attachment) wireAttachment { return wireAttachment(a) }),
		}
	}
	if e := r.Endpoint; e != nil {
		w.Endpoint = &wireEndpoint{
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight, Fixed: e.Fixed,
			Attached: each(e.Attached, func(a mesh.Attachment) wireAttachment { return wireAttachment(a) }),
			Left:     each(e.Left, func(f mesh.Freed) wireFreed { return wireFreed(f) }),
			Joined:   each(e.Joined, toWireJoined),
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
			Driver: n.Driver, Internal: n.Internal, Apart: n.Apart, MTU: n.MTU, Gateway4: n.Gateway4, Gateway6: n.Gateway6, Routed: n.Routed,
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
			ID: s.ID, Name: s.Name, Networks: s.Networks, Scheduler: s.Scheduler, Affinity: s.Affinity, Aliases: s.Aliases, Stack: s.Stack, Mode: s.Mode,
			Publish: each(s.Publish, func(p wirePublished) mesh.PublishedPort { return mesh.PublishedPort(p) }),
			Virtual: each(s.Virtual, func(a wireAttachment) mesh.Attachment { return mesh.Attachment(a) }),
		}
	}
	if e := w.Endpoint; e != nil {
		r.Endpoint = &mesh.Endpoint{
			ID: e.ID, Name: e.Name, Service: e.Service, Node: e.Node, State: e.State, Weight: e.Weight, Fixed: e.Fixed,
			Attached: each(e.Attached, func(a wireAttachment) mesh.Attachment { return mesh.Attachment(a) }),
			Left:     each(e.Left, func(f wireFreed) mesh.Freed { return mesh.Freed(f) }),
			Joined:   each(e.Joined, wireJoined.joined),
		}
	}
	return r
}

func toWireJoined(j mesh.Joined) wireJoined {
	return wireJoined{
		Network: j.Network, ByService: j.ByService, MAC: j.MAC, Interface: j.Interface, Aliases: j.Aliases, Gateway: j.Gateway,
		Sysctls: each(j.Sysctls, func(s mesh.InterfaceSysctl) wireSysctl { return wireSysctl(s) }),
	}
}

func (w wireJoined) joined() mesh.Joined {
	return mesh.Joined{
		Network: w.Network, ByService: w.ByService, MAC: w.MAC, Interface: w.Interface, Aliases: w.Aliases, Gateway: w.Gateway,
		Sysctls: each(w.Sysctls, func(s wireSysctl) mesh.InterfaceSysctl { return mesh.InterfaceSysctl(s) }),
	}
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
