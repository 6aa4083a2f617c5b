package mesh

import "slices"

// Shadowed are the ways to write names of a service or an endpoint that an older one is meant by: two
// that two sides of a split let in, or that were there before anybody was refused.
func (snap *Snapshot) Shadowed(kind Kind, id string) []string {
	return snap.shadowed[Key{kind, id}]
}

// settleWritings leaves what two are written alike by to the older one. What else the younger is
// called it keeps.
func (snap *Snapshot) settleWritings(byAge []Record) {
	lost := snap.withoutName()
	speller := snap.speller(lost)
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
	snap.leaveToOlder(speller.suspects(all), speller)
}

// leaveToOlder compares names, of which the oldest owner's are first.
func (snap *Snapshot) leaveToOlder(names []called, speller *speller) {
	holders := map[string][]meant{}
	for _, c := range names {
		speller.write(c, func(text []byte, w writing) {
			m := meant{c, w}
			for _, older := range holders[string(text)] {
				if m.meets(older) {
					snap.shadow(c, older.called, string(text))
					return
				}
			}
			holders[string(text)] = withMeant(holders[string(text)], m)
		})
	}
}

// shadow notes that a text means another: one conflict of the two, whatever number of texts it is
// about.
func (snap *Snapshot) shadow(loser, winner called, text string) {
	k, by := loser.owner(), winner.owner()
	snap.shadowed[k] = append(snap.shadowed[k], text)
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
