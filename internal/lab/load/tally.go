package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Tally is all requests of a load, in the order in which they ended.
type Tally struct {
	Spec     Spec
	Requests []Request
}

// Failed are the requests that were not answered as they should, in the order in which they began.
func (t Tally) Failed() []Request {
	var failed []Request
	for _, r := range t.Requests {
		if r.Why != "" {
			failed = append(failed, r)
		}
	}
	slices.SortFunc(failed, func(a, b Request) int { return a.Began.Compare(b.Began) })
	return failed
}

// Rate is how many requests a second there were, answered or not.
func (t Tally) Rate() float64 {
	first, last := t.span()
	if len(t.Requests) < 2 {
		return 0
	}
	return float64(len(t.Requests)-1) / last.Sub(first).Seconds()
}

func (t Tally) span() (first, last time.Time) {
	for i, r := range t.Requests {
		if i == 0 || r.Began.Before(first) {
			first = r.Began
		}
		if r.Began.After(last) {
			last = r.Began
		}
	}
	return first, last
}

// Slowest is how long the slowest answer took.
func (t Tally) Slowest() time.Duration {
	var most time.Duration
	for _, r := range t.Requests {
		if r.Why == "" {
			most = max(most, r.Took)
		}
	}
	return most
}

// Back is how long after then the last request began that failed; 0 where none did.
func (t Tally) Back(then time.Time) time.Duration {
	failed := t.Failed()
	if len(failed) == 0 {
		return 0
	}
	return max(failed[len(failed)-1].Began.Sub(then), 0)
}

// Gap is the longest time after then in which one of the targets gave no answer.
func (t Tally) Gap(then time.Time) time.Duration {
	ends := map[int][]time.Time{}
	for _, r := range t.Requests {
		if end := r.Began.Add(r.Took); r.Why == "" && end.After(then) {
			ends[r.Target] = append(ends[r.Target], end)
		}
	}
	var most time.Duration
	for _, list := range ends {
		slices.SortFunc(list, time.Time.Compare)
		last := then
		for _, end := range list {
			most = max(most, end.Sub(last))
			last = end
		}
	}
	return most
}

// Describe says which targets failed, why, how often, and when the first and the
// last of each did, counted from then.
func (t Tally) Describe(then time.Time) string {
	type kind struct{ target, why string }
	type span struct {
		count       int
		first, last time.Duration
	}
	seen := map[kind]span{}
	for _, r := range t.Failed() {
		k := kind{t.Spec.Targets[r.Target].Name, r.Why}
		s := seen[k]
		s.last = r.Began.Sub(then)
		if s.count++; s.count == 1 {
			s.first = s.last
		}
		seen[k] = s
	}
	kinds := slices.SortedFunc(maps.Keys(seen), func(a, b kind) int {
		return cmp.Or(cmp.Compare(a.target, b.target), cmp.Compare(a.why, b.why))
	})
	var text strings.Builder
	for _, k := range kinds {
		s := seen[k]
		fmt.Fprintf(&text, "  %s: %d times %s, from %s to %s\n", k.target, s.count, k.why,
			s.first.Round(time.Millisecond), s.last.Round(time.Millisecond))
	}
	return text.String()
}
