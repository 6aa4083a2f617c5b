package kernel

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// loadTable is one transaction: all of it, or an error and nothing.
func (s *fakeSpace) loadTable(verb Verb, t *plan.Table) error {
	i := slices.IndexFunc(s.Tables, func(have *plan.Table) bool { return have.Family == t.Family })
	if verb == Delete {
		if i >= 0 {
			s.Tables = slices.Delete(s.Tables, i, i+1)
		}
		return nil
	}
	if err := s.refuseTable(t); err != nil {
		return err
	}
	if i < 0 {
		s.Tables = append(s.Tables, copyTable(t))
		return nil
	}
	s.Tables[i] = copyTable(t)
	return nil
}

// setUser makes or removes the administrator's table.
func (s *fakeSpace) setUser(verb Verb) error {
	s.user = verb != Delete
	return nil
}

// loadLock is loadTable of the host's lock.
func (s *fakeSpace) loadLock(verb Verb, t *plan.Table) error {
	s.Lock = nil
	if verb == Delete {
		return nil
	}
	if err := s.refuseTable(t); err != nil {
		return err
	}
	s.Lock = copyTable(t)
	return nil
}

func (s *fakeSpace) refuseTable(t *plan.Table) error {
	for _, set := range t.Sets {
		if set.Learned > 0 && len(set.Elements) > 0 {
			return checkElements(t)
		}
		seen := map[string]bool{}
		for _, e := range set.Elements {
			if _, err := elementBytes(set, e); err != nil {
				return err
			}
			if seen[e.Key] {
				return fmt.Errorf("element %s of %s twice: %w", e.Key, set.Name, syscall.EEXIST)
			}
			seen[e.Key] = true
		}
		if err := refuseOverlap(set); err != nil {
			return err
		}
	}
	for _, c := range t.Chains {
		if _, after, ok := strings.Cut(c.Base, `device "`); ok {
			device, _, _ := strings.Cut(after, `"`)
			if err := s.needs(device); err != nil {
				return fmt.Errorf("chain %s: %w", c.Name, err)
			}
		}
		for _, rule := range c.Rules {
			if err := knowsSets(t, rule); err != nil {
				return err
			}
		}
	}
	return nil
}

// knowsSets refuses a rule that names a set which the table does not have, or changes one
// that does not learn.
func knowsSets(t *plan.Table, rule string) error {
	before := ""
	for word := range strings.FieldsSeq(rule) {
		name, ok := strings.CutPrefix(word, "@")
		learns := before == "update" || before == "delete"
		before = word
		if !ok || strings.Contains(name, ",") { // @th,96,24 is a raw payload
			continue
		}
		i := slices.IndexFunc(t.Sets, func(s *plan.Set) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("rule %q: set %s: %w", rule, name, syscall.ENOENT)
		}
		if learns && t.Sets[i].Learned == 0 {
			return fmt.Errorf("rule %q: set %s learns nothing: %w", rule, name, syscall.EOPNOTSUPP)
		}
	}
	return nil
}

func copyTable(t *plan.Table) *plan.Table {
	c := &plan.Table{Family: t.Family, Name: t.Name, Chains: t.Chains}
	for _, s := range t.Sets {
		set := *s
		set.Elements = slices.Clone(s.Elements)
		c.Sets = append(c.Sets, &set)
	}
	return c
}

// changeElements is one transaction: what goes must be there with its value,
// what comes must not.
func (s *fakeSpace) changeElements(o ElementChange) error {
	i := slices.IndexFunc(s.Tables, func(t *plan.Table) bool { return t.Family == o.Family })
	if i < 0 {
		return syscall.ENOENT
	}
	next := copyTable(s.Tables[i])
	for _, change := range o.Sets {
		j := slices.IndexFunc(next.Sets, func(set *plan.Set) bool { return set.Name == change.Set.Name })
		if j < 0 {
			return fmt.Errorf("set %s: %w", change.Set.Name, syscall.ENOENT)
		}
		if err := changeSet(next.Sets[j], change); err != nil {
			return err
		}
	}
	s.Tables[i] = next
	return nil
}

func changeSet(set *plan.Set, change SetChange) error {
	for _, e := range change.Gone {
		k := slices.Index(set.Elements, e)
		if k < 0 {
			return fmt.Errorf("element %s of %s: %w", e, set.Name, syscall.ENOENT)
		}
		set.Elements = slices.Delete(set.Elements, k, k+1)
	}
	for _, e := range change.Come {
		if _, err := elementBytes(set, e); err != nil {
			return err
		}
		if slices.ContainsFunc(set.Elements, func(have plan.Element) bool { return have.Key == e.Key }) {
			return fmt.Errorf("element %s of %s: %w", e, set.Name, syscall.EEXIST)
		}
		set.Elements = append(set.Elements, e)
	}
	slices.SortFunc(set.Elements, func(a, b plan.Element) int { return strings.Compare(a.Key, b.Key) })
	return refuseOverlap(set)
}

func refuseOverlap(set *plan.Set) error {
	if !set.Ranges {
		return nil
	}
	both, err := overlap(set)
	if err == nil && len(both) > 0 {
		err = fmt.Errorf("elements %s and %s of %s overlap: %w", both[0], both[1], set.Name, syscall.ENOTEMPTY)
	}
	return err
}
