package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// What a node has learned from packets is in no plan: the walk is that of somebody who
// comes for the first time, and says for how long it will be remembered.

// learn is "update @NAME { KEY timeout TIME : VALUE }" and "delete @NAME { KEY : VALUE }".
func (s *statement) learn(verb string) (outcome, bool, error) {
	name, ok := strings.CutPrefix(s.reader.next(), "@")
	set := s.set(name)
	if !ok || set == nil || set.Learned == 0 {
		return outcome{}, false, s.unknown()
	}
	inside, err := newReader(strings.Trim(s.reader.next(), "{ }"))
	if err != nil {
		return outcome{}, false, err
	}
	_, found, err := s.key(inside.selector())
	if err != nil || !found {
		return outcome{}, false, err
	}
	if verb == "update" {
		if !inside.take("timeout") {
			return outcome{}, false, s.unknown()
		}
		if s.walk.kept, err = time.ParseDuration(inside.next()); err != nil {
			return outcome{}, false, s.unknown()
		}
	}
	if !inside.take(": meta mark") || inside.more() {
		return outcome{}, false, s.unknown()
	}
	s.walk.rely(s.line())
	return outcome{}, true, nil
}

func (s *statement) set(name string) *plan.Set {
	i := slices.IndexFunc(s.table.Sets, func(set *plan.Set) bool { return set.Name == name })
	if i < 0 {
		return nil
	}
	return s.table.Sets[i]
}

// hashWord begins a field that is a hash of another. Its number is the kernel's business:
// it can only be looked for in a learned set.
const hashWord = "jhash "

// hash reads "jhash FIELD mod N seed S" as one field of a selector.
func (r *reader) hash() (name string, ok bool) {
	start := r.at
	if !r.take("jhash") {
		return "", false
	}
	of := slices.IndexFunc(fields(), r.take)
	if of < 0 || !r.take("mod") || number(r.next()) < 1 || !r.take("seed") || number(r.next()) < 0 {
		r.at = start
		return "", false
	}
	return hashWord + fields()[of], true
}

// remembered is what the walk's end adds where clients are kept.
func remembered(long time.Duration) string {
	if long == 0 {
		return ""
	}
	return fmt.Sprintf("; a client that made a connection here within %s goes where it went", long)
}
