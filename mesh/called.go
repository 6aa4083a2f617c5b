package mesh

import "strings"

// called is one name that a service or an endpoint has within its stack.
type called struct {
	name    string // in lower case
	stack   string // in lower case
	alias   bool
	service *Service // itself, or whose endpoint; nil where it is gone
	of      *Endpoint
	only    NetworkID // where the name holds; empty: wherever its owner is
}

func namesOfService(s *Service) []called {
	stack := strings.ToLower(s.Stack)
	list := []called{{name: strings.ToLower(s.Name), stack: stack, service: s}}
	for _, a := range s.Aliases {
		list = append(list, called{name: strings.ToLower(a), stack: stack, alias: true, service: s})
	}
	return list
}

func namesOfEndpoint(e *Endpoint, s *Service) []called {
	stack := ""
	if s != nil {
		stack = strings.ToLower(s.Stack)
	}
	list := []called{{name: strings.ToLower(e.Name), stack: stack, service: s, of: e}}
	for _, j := range e.Joined {
		for _, a := range j.Aliases {
			list = append(list, called{name: strings.ToLower(a), stack: stack, alias: true, service: s, of: e, only: j.Network})
		}
	}
	return list
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

// form is how a name is written.
type form int

const (
	short   form = iota // NAME or tasks.NAME: for who is of the same stack, or in none
	stacked             // short.STACK
	further             // one of these and .NETWORK, where nobody has it as it is written
)

// spelling is one way to write a name, in lower case.
type spelling struct {
	text, stack string
	form        form
}

const tasksPrefix = "tasks."

// spellings are all ways to write a name.
func (snap *Snapshot) spellings(c called) []spelling {
	names := []string{c.name}
	if c.of == nil {
		names = append(names, tasksPrefix+c.name)
	}
	var list []spelling
	for _, name := range names {
		list = append(list, spelling{name, c.stack, short})
		if c.stack != "" {
			list = append(list, spelling{name + "." + c.stack, c.stack, stacked})
		}
	}
	whole := list
	for _, id := range c.on() {
		n := snap.networks[id]
		if n == nil || n.Ingress() {
			continue
		}
		for _, s := range whole {
			list = append(list, spelling{s.text + "." + strings.ToLower(n.Name), c.stack, further})
		}
	}
	return list
}

// eachName gives every name that somebody has, as it is written, until one is refused.
func (snap *Snapshot) eachName(do func(name string, of called) error) error {
	lost := snap.withoutName()
	for _, s := range snap.Services {
		if lost[Key{KindService, string(s.ID)}] {
			continue
		}
		if err := do(s.Name, called{service: s}); err != nil {
			return err
		}
		for _, a := range s.Aliases {
			if err := do(a, called{service: s, alias: true}); err != nil {
				return err
			}
		}
	}
	for _, e := range snap.Endpoints {
		s := snap.services[e.Service]
		if !lost[Key{KindEndpoint, string(e.ID)}] {
			if err := do(e.Name, called{service: s, of: e}); err != nil {
				return err
			}
		}
		for _, j := range e.Joined {
			for _, a := range j.Aliases {
				if err := do(a, called{service: s, of: e, alias: true, only: j.Network}); err != nil {
					return err
				}
			}
		}
	}
	return nil
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
