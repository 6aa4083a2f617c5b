package mesh

import (
	"slices"
	"strings"
)

// CheckServiceNames refuses a service one of whose names is found instead of another's, or not
// found for another's. have is what it was, or nil: what it was called before it may stay. Its
// endpoints are called in its stack and on its networks, so that theirs are looked at too.
func (snap *Snapshot) CheckServiceNames(next, have *Service) error {
	after, before := namesOfService(next), []called(nil)
	if have != nil {
		before = namesOfService(have)
	}
	if have != nil && (have.Stack != next.Stack || !slices.Equal(have.Uses(), next.Uses())) {
		for _, e := range snap.EndpointsOf(next.ID) {
			after, before = append(after, namesOfEndpoint(e, next)...), append(before, namesOfEndpoint(e, have)...)
		}
	}
	return snap.checkNames(next, after, before)
}

// CheckEndpointNames is CheckServiceNames for an endpoint.
func (snap *Snapshot) CheckEndpointNames(next, have *Endpoint) error {
	service := snap.Service(next.Service)
	after, before := namesOfEndpoint(next, service), []called(nil)
	if have != nil {
		before = namesOfEndpoint(have, service)
	}
	return snap.checkNames(service, after, before)
}

// meeting is who would have a spelling too: one that is called so, and is what the rest says.
type meeting struct {
	condition
	mine called
}

type condition struct {
	spelling spelling
	stack    string // of who is met, where inStack
	inStack  bool
	tasks    bool      // the spelling is tasks.NAME: a service
	network  NetworkID // empty: on any
}

// key is what somebody must be called to be met. In which stack is part of it: of an endpoint called
// NAME.SUFFIX the name is sought in stack SUFFIX, which thousands of endpoints do, each with its own.
type key struct {
	name, stack string
	inStack     bool
}

// search is by which names of others the new spellings would be met.
type search struct {
	networks map[string]NetworkID
	sought   map[key][]meeting
	alike    map[any]int
}

// add leaves out a third owner of one service that is called alike: whoever is not one of two is met
// by either.
func (s *search) add(name string, m meeting) {
	type kind struct {
		condition
		sought, name string
		alias        bool
		service      bool
	}
	k := kind{m.condition, name, m.mine.name, m.mine.alias, m.mine.of == nil}
	if s.alike[k]++; s.alike[k] <= 2 {
		at := key{name, m.stack, m.inStack}
		if !m.inStack {
			at.stack = ""
		}
		s.sought[at] = append(s.sought[at], m)
	}
}

// seek notes who is called name, and which service that has it as tasks.NAME.
func (s *search) seek(name string, m meeting) {
	s.add(name, m)
	if rest, ok := strings.CutPrefix(name, tasksPrefix); ok {
		m.tasks = true
		s.add(rest, m)
	}
}

// checkNames compares what is new in after with what everybody is called. It takes the new ones
// apart, and asks of each name that there is only whether it is among the parts. service, which may
// be nil, is as it is to be.
func (snap *Snapshot) checkNames(service *Service, after, before []called) error {
	type owned struct {
		spelling
		by    EndpointID // empty: the service
		alias bool
	}
	own := func(s spelling, c called) owned {
		if c.of != nil {
			return owned{s, c.of.ID, c.alias}
		}
		return owned{s, "", c.alias}
	}
	old := map[owned]bool{}
	for _, c := range before {
		for _, s := range snap.spellings(c) {
			old[own(s, c)] = true
		}
	}
	look := search{networks: map[string]NetworkID{}, sought: map[key][]meeting{}, alike: map[any]int{}}
	lost := snap.withoutName()
	for id, n := range snap.networks {
		if !n.Ingress() && !lost[Key{KindNetwork, string(id)}] {
			look.networks[strings.ToLower(n.Name)] = id
		}
	}
	for _, c := range after {
		for _, s := range snap.spellings(c) {
			if !old[own(s, c)] {
				look.spelt(meeting{condition{spelling: s}, c})
			}
		}
	}
	if len(look.sought) == 0 {
		return nil
	}
	return snap.meet(look.sought, service)
}

// spelt takes one spelling apart.
func (s *search) spelt(m meeting) {
	// Another stack's short name is no answer to who is not of it, and one's own comes first.
	direct := m
	direct.inStack, direct.stack = m.spelling.form == short, m.spelling.stack
	s.seek(m.spelling.text, direct)
	parted := func(text string, then func(name, last string)) {
		for i := range len(text) {
			if text[i] == '.' {
				then(text[:i], text[i+1:])
			}
		}
	}
	inStack := func(text string, m meeting) {
		parted(text, func(name, stack string) {
			m.inStack, m.stack = true, stack
			s.seek(name, m)
		})
	}
	inStack(m.spelling.text, m)
	if m.spelling.form == further {
		return
	}
	parted(m.spelling.text, func(name, network string) {
		if id, ok := s.networks[network]; ok {
			beyond := m
			beyond.network = id
			s.seek(name, beyond)
			inStack(name, beyond)
		}
	})
}

// meet looks for who is called as is sought, where service is as it is to be.
func (snap *Snapshot) meet(sought map[key][]meeting, service *Service) error {
	return snap.eachName(func(name string, c called) error {
		c.name = strings.ToLower(name)
		if c.service != nil && service != nil && c.service.ID == service.ID {
			c.service = service
		}
		if c.service != nil {
			c.stack = strings.ToLower(c.service.Stack)
		}
		for _, at := range []key{{name: c.name}, {c.name, c.stack, true}} {
			for _, m := range sought[at] {
				if m.by(c) {
					return Refuse(NameShadows, "choose another name, alias, stack or network for one of them", "%q would be both %s and %s", m.spelling.text, m.mine, c)
				}
			}
		}
		return nil
	})
}

// by tells whether c, whose name is right, is met.
func (m meeting) by(c called) bool {
	return !m.mine.same(c) && !m.mine.shares(c) &&
		(!m.inStack || c.stack == m.stack) && (!m.tasks || c.of == nil) &&
		(m.network == "" || slices.Contains(c.on(), m.network))
}
