package mesh

import (
	"slices"
	"strings"
)

// called is one name that a service or an endpoint has within its stack.
type called struct {
	name    string // in lower case
	stack   string // in lower case
	alias   bool
	service *Service // itself, or whose endpoint; nil where it is gone
	of      *Endpoint
	only    NetworkID // where the name holds; empty: wherever its owner is
}

// namesOf gives the names of an endpoint of s, or of s itself where e is nil. An endpoint that lost
// its name has its aliases; a service that did answers to none.
func namesOf(s *Service, e *Endpoint, lost map[Key]bool, do func(called)) {
	stack := ""
	if s != nil {
		stack = strings.ToLower(s.Stack)
	}
	if e == nil {
		if len(lost) > 0 && lost[Key{KindService, string(s.ID)}] {
			return
		}
		do(called{name: strings.ToLower(s.Name), stack: stack, service: s})
		for _, a := range s.Aliases {
			do(called{name: strings.ToLower(a), stack: stack, alias: true, service: s})
		}
		return
	}
	if len(lost) == 0 || !lost[Key{KindEndpoint, string(e.ID)}] {
		do(called{name: strings.ToLower(e.Name), stack: stack, service: s, of: e})
	}
	for _, j := range e.Joined {
		for _, a := range j.Aliases {
			do(called{name: strings.ToLower(a), stack: stack, alias: true, service: s, of: e, only: j.Network})
		}
	}
}

// on are the networks that the name holds on.
func (c called) on() []NetworkID {
	switch {
	case c.only != "":
		return []NetworkID{c.only}
	case c.service == nil:
		return nil
	case c.of != nil:
		return c.of.Networks(c.service)
	default:
		return c.service.Uses()
	}
}

// same tells whether two are of one owner.
func (c called) same(d called) bool {
	if c.of != nil && d.of != nil {
		return c.of.ID == d.of.ID
	}
	return c.of == nil && d.of == nil && c.service.ID == d.service.ID
}

// shares tells whether two owners may have one name: an alias gives the addresses of all that have
// it, and an endpoint may be called as its service is.
func (c called) shares(d called) bool {
	if c.name != d.name || c.stack != d.stack {
		return false
	}
	return c.alias && d.alias || c.namesServiceOf(d) || d.namesServiceOf(c)
}

// namesServiceOf tells whether c is the name of the service that d is an endpoint of.
func (c called) namesServiceOf(d called) bool {
	return c.of == nil && !c.alias && d.of != nil && d.service != nil && d.service.ID == c.service.ID
}

func (c called) String() string {
	text := ""
	if c.of != nil {
		text = `endpoint "` + c.of.Name + `"`
	} else {
		text = `service "` + c.service.Name + `"`
	}
	if c.stack != "" {
		text += ` of stack "` + c.service.Stack + `"`
	}
	if c.alias {
		text += ` by its alias "` + c.name + `"`
	}
	return text
}

// writing is how a name is written beside its text.
type writing struct {
	stack   string    // of who is called so
	stacked bool      // it ends in .STACK, and is for everybody; else it is for who is of the stack, or in none
	network NetworkID // it ends in .NETWORK, and is that where nobody has it as it is written
}

// clashes tells whether there may be somebody to whom one text, written in these two ways, means two.
func (w writing) clashes(v writing) bool {
	if w.stacked || v.stacked || w.stack == v.stack {
		return true
	}
	if w.stack != "" && v.stack != "" {
		return false // who hears one does not hear the other
	}
	own, common := w, v
	if own.stack == "" {
		own, common = v, w
	}
	return own.network != "" && own.network != common.network // else a stack's own comes first, as it should
}

const tasksPrefix = "tasks."

// speller writes names. Its networks' names, in lower case, end a writing; without any it gives those
// without a network.
type speller struct {
	networks map[NetworkID]string
	further  map[ServiceID][]NetworkID // where the service is by endpoints that are connected there by themselves
	room     []byte
	looked   int // with how many others, alike ones being one, names were compared
}

func (snap *Snapshot) speller(lost map[Key]bool) *speller {
	names := map[NetworkID]string{}
	if !slices.ContainsFunc(snap.Networks, func(n *Network) bool {
		return n.ID != DefaultBridge && strings.EqualFold(n.Name, DefaultBridgeName) && !lost[Key{KindNetwork, string(n.ID)}]
	}) {
		names[DefaultBridge] = DefaultBridgeName // which is made with the first service on it
	}
	for id, n := range snap.networks {
		if !n.Ingress() && !lost[Key{KindNetwork, string(id)}] {
			names[id] = strings.ToLower(n.Name)
		}
	}
	further := map[ServiceID][]NetworkID{}
	for _, e := range snap.Endpoints {
		for _, j := range e.Joined {
			if !j.ByService && !slices.Contains(further[e.Service], j.Network) {
				further[e.Service] = append(further[e.Service], j.Network)
			}
		}
	}
	return &speller{networks: names, further: further}
}

// on are the networks that a name holds on.
func (s *speller) on(c called) []NetworkID {
	on := c.on()
	if c.of != nil || c.only != "" || len(s.further[c.service.ID]) == 0 {
		return on
	}
	all := slices.Concat(on, s.further[c.service.ID])
	slices.Sort(all)
	return slices.Compact(all)
}

// write gives all ways to write a name, in lower case. A text is good until do returns.
func (s *speller) write(c called, do func(text []byte, w writing)) {
	var on []NetworkID
	if len(s.networks) > 0 {
		on = s.on(c)
	}
	for _, prefix := range []string{"", tasksPrefix} {
		if prefix != "" && c.of != nil {
			return
		}
		for _, stacked := range []bool{false, true} {
			if stacked && c.stack == "" {
				break
			}
			s.room = append(append(s.room[:0], prefix...), c.name...)
			if stacked {
				s.room = append(append(s.room, '.'), c.stack...)
			}
			text := s.room
			do(text, writing{stack: c.stack, stacked: stacked})
			for _, id := range on {
				if network, ok := s.networks[id]; ok {
					s.room = append(append(text, '.'), network...)
					do(s.room, writing{c.stack, stacked, id})
				}
			}
		}
	}
}

// meant is one that a text means, and how it is written in it.
type meant struct {
	called
	writing
}

// meets tells whether somebody could be found in another's place.
func (m meant) meets(n meant) bool {
	return m.clashes(n.writing) && !m.same(n.called) && !m.shares(n.called)
}

// likewise tells whether a text means two in the same way: a third clashes with both or neither.
func (m meant) likewise(n meant) bool {
	return m.writing == n.writing && m.name == n.name && m.alias == n.alias && (m.of == nil) == (n.of == nil)
}

// withMeant adds one to those that a text means. It leaves out a third that is called alike: whoever
// is not one of two meets either.
func withMeant(list []meant, m meant) []meant {
	alike := 0
	for _, have := range list {
		if !have.likewise(m) {
			continue
		}
		if alike++; alike == 2 || have.same(m.called) {
			return list
		}
	}
	return append(list, m)
}

// withoutName are those who lost their name to another's claim.
func (snap *Snapshot) withoutName() map[Key]bool {
	lost := map[Key]bool{}
	for _, c := range snap.Conflicts {
		if c.Reason == NameTaken {
			lost[Key{c.Kind, c.ID}] = true
		}
	}
	return lost
}
