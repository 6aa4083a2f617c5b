package mesh

import (
	"slices"
	"strings"
)

// CheckServiceNames refuses a service one of whose names is found instead of another's, or not
// found for another's. have is what it was, or nil: what it was called before it may stay. Its
// endpoints are called in its stack and on its networks, so that theirs are looked at too.
func (snap *Snapshot) CheckServiceNames(next, have *Service) error {
	var after, before []called
	add := func(to *[]called) func(called) { return func(c called) { *to = append(*to, c) } }
	namesOf(next, nil, nil, add(&after))
	if have != nil {
		namesOf(have, nil, nil, add(&before))
	}
	if have != nil && (have.Stack != next.Stack || !slices.Equal(have.Uses(), next.Uses())) {
		for _, e := range snap.EndpointsOf(next.ID) {
			namesOf(next, e, nil, add(&after))
			namesOf(have, e, nil, add(&before))
		}
	}
	return snap.checkNames(next, nil, after, before)
}

// CheckEndpointNames is CheckServiceNames for an endpoint. Its service is found wherever it is.
func (snap *Snapshot) CheckEndpointNames(next, have *Endpoint) error {
	service := snap.Service(next.Service)
	var after, before []called
	for _, j := range next.Joined {
		if service != nil && !j.ByService {
			namesOf(service, nil, nil, func(c called) {
				before = append(before, c)
				c.only = j.Network
				after = append(after, c)
			})
		}
	}
	namesOf(service, next, nil, func(c called) { after = append(after, c) })
	if have != nil {
		namesOf(service, have, nil, func(c called) { before = append(before, c) })
	}
	return snap.checkNames(service, next, after, before)
}

// checkNames compares the writings that are new in after with those of everybody. service and endpoint,
// which may be nil, are as they are to be.
func (snap *Snapshot) checkNames(service *Service, endpoint *Endpoint, after, before []called) error {
	lost := snap.withoutName()
	speller := snap.speller(lost)
	fresh := speller.fresh(after, before)
	begin := firstLabels(fresh)
	var refusal error
	compare := func(c called) {
		if first, _, _ := strings.Cut(c.name, "."); !begin[first] || refusal != nil {
			return
		}
		speller.write(c, func(text []byte, w writing) {
			for _, m := range fresh[string(text)] {
				// What is followed by one network alike is refused, or was there, without it.
				if (w.network == "" || w.network != m.network) && m.meets(meant{c, w}) && refusal == nil {
					refusal = Refuse(NameShadows, "choose another name, alias, stack or network for one of them", "%q would be both %s and %s", text, m.called, c)
				}
			}
		})
	}
	now := func(s *Service) *Service {
		if s != nil && service != nil && s.ID == service.ID {
			return service
		}
		return s
	}
	for _, s := range snap.Services {
		namesOf(now(s), nil, lost, compare)
	}
	for _, e := range snap.Endpoints {
		if endpoint == nil || e.ID != endpoint.ID {
			namesOf(now(snap.services[e.Service]), e, lost, compare)
		}
	}
	if endpoint != nil {
		namesOf(service, endpoint, lost, compare)
	}
	return refusal
}

// firstLabels are those of all names that may be written like one of the texts.
func firstLabels(texts map[string][]meant) map[string]bool {
	labels := map[string]bool{}
	for text := range texts {
		first, rest, _ := strings.Cut(text, ".")
		labels[first] = true
		if second, _, _ := strings.Cut(rest, "."); first+"." == tasksPrefix {
			labels[second] = true
		}
	}
	return labels
}

// fresh are the writings of after that the same owner had not before.
func (s *speller) fresh(after, before []called) map[string][]meant {
	type owned struct {
		writing
		text  string
		by    EndpointID // empty: the service
		alias bool
	}
	own := func(text []byte, w writing, c called) owned {
		if c.of != nil {
			return owned{w, string(text), c.of.ID, c.alias}
		}
		return owned{w, string(text), "", c.alias}
	}
	old, fresh := map[owned]bool{}, map[string][]meant{}
	for _, c := range before {
		s.write(c, func(text []byte, w writing) { old[own(text, w, c)] = true })
	}
	for _, c := range after {
		s.write(c, func(text []byte, w writing) {
			if !old[own(text, w, c)] {
				fresh[string(text)] = withMeant(fresh[string(text)], meant{c, w})
			}
		})
	}
	return fresh
}
