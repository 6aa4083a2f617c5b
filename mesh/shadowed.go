package mesh

import (
	"maps"
	"slices"
)

// Shadow is a way to write a name of a service or an endpoint that older ones are meant by: of two
// that two sides of a split let in, or that were there before anybody was refused.
type Shadow struct {
	Text string
	On   []NetworkID // whose askers hear an older one by it; to all others it means whom it did
}

// Shadowed are those of a service or an endpoint.
func (snap *Snapshot) Shadowed(kind Kind, id string) []Shadow {
	return snap.shadowed[Key{kind, id}]
}

// settleWritings leaves what two are written alike by to the older one. What else the younger is
// called it keeps.
func (snap *Snapshot) settleWritings(byAge []Record) {
	lost := snap.withoutName()
	speller := snap.speller(lost)
	snap.leaveToOlder(speller.suspects(snap.namesByAge(byAge, lost)), speller)
}

func (snap *Snapshot) namesByAge(byAge []Record, lost map[Key]bool) []called {
	all := make([]called, 0, 2*(len(snap.Services)+len(snap.Endpoints)))
	add := func(c called) { all = append(all, c) }
	for _, r := range byAge {
		switch {
		case r.Service != nil:
			namesOf(r.Service, nil, lost, add)
		case r.Endpoint != nil:
			namesOf(snap.services[r.Endpoint.Service], r.Endpoint, lost, add)
		}
	}
	return all
}

// leaveToOlder compares names, of which the oldest owner's are first. Who lost a text on some of its
// networks holds it on the others.
func (snap *Snapshot) leaveToOlder(names []called, speller *speller) {
	texts := map[string]*holders{}
	for age, c := range names {
		speller.write(c, func(text []byte, w writing) {
			have, m := texts[string(text)], meant{c, w}
			if have == nil {
				have = &holders{}
				texts[string(text)] = have
			}
			older := have.against(m)
			speller.looked += older.looked
			if len(older.on) > 0 {
				snap.shadow(c, string(text), older)
			}
			if on := slices.DeleteFunc(speller.heard(m), func(id NetworkID) bool { return older.on[id] }); len(on) > 0 {
				have.add(m, age, on)
			}
		})
	}
}

// heard are the networks whose askers find one by a text, for the caller to keep.
func (s *speller) heard(m meant) []NetworkID {
	if m.network != "" {
		return []NetworkID{m.network}
	}
	on := slices.Clone(s.on(m.called))
	if m.service == nil {
		for _, at := range m.of.Attached {
			on = append(on, at.Network)
		}
	}
	if on = slices.DeleteFunc(on, func(id NetworkID) bool { return id == IngressNetwork }); len(on) == 0 {
		return []NetworkID{nowhere}
	}
	return on
}

// shadow notes that a text means others: one conflict with the oldest, whatever number of texts it is
// about.
func (snap *Snapshot) shadow(loser called, text string, older olders) {
	k, by := loser.owner(), older.oldest.owner()
	on := slices.DeleteFunc(slices.Sorted(maps.Keys(older.on)), func(id NetworkID) bool { return id == nowhere })
	snap.shadowed[k] = append(snap.shadowed[k], Shadow{text, on})
	for _, c := range slices.Backward(snap.Conflicts) {
		if c.Reason != NameShadows || c.Kind != k.Kind || c.ID != k.ID {
			break // those of one loser stand together
		}
		if c.Winner == by.ID && c.By == by.Kind {
			return
		}
	}
	snap.Conflicts = append(snap.Conflicts, Conflict{Kind: k.Kind, ID: k.ID, Claim: `name "` + text + `"`, Winner: by.ID, Reason: NameShadows, By: by.Kind})
}

func (c called) owner() Key {
	if c.of != nil {
		return Key{KindEndpoint, string(c.of.ID)}
	}
	return Key{KindService, string(c.service.ID)}
}
