package mesh

import (
	"bytes"
	"hash/fnv"
	"slices"
)

// suspects are those who may be written like another, in their order, and perhaps some more. In most
// clusters there is none, which is to be found out fast: by hashes of what is written without a network.
func (s *speller) suspects(all []called) []called {
	bare, f := &speller{}, finder{
		speller: s, all: all, within: hasher(), ends: s.ends(), stacked: make(map[uint64]int, len(all)), short: make(map[uint64]int, 2*len(all)),
		endings: map[uint64][]ending{}, suspect: map[uint64]bool{},
	}
	for i, c := range all {
		bare.write(c, func(text []byte, w writing) { f.takeApart(i, text, w) })
	}
	for i, c := range all {
		bare.write(c, func(text []byte, w writing) { f.compare(i, text, w) })
	}
	if len(f.suspect) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(all), func(c called) bool {
		found := false
		bare.write(c, func(text []byte, _ writing) { found = found || f.suspect[f.hash(text)] })
		return !found
	})
}

// end is how the text of one network may begin another's: what is called TEXT.END is called as who is
// TEXT on network. Where there is a rest, that is TEXT.END on network rest.
type end struct{ network, rest NetworkID }

// ends are what a text may end with so that it may be the beginning with a network: a network's name,
// or what is before another's name in it.
func (s *speller) ends() map[string][]end {
	ends, called := map[string][]end{}, make(map[string][]NetworkID, len(s.networks))
	for id, name := range s.networks {
		called[name] = append(called[name], id)
		ends[name] = append(ends[name], end{network: id})
	}
	for id, name := range s.networks {
		for i := range len(name) {
			if name[i] != '.' {
				continue
			}
			for _, rest := range called[name[i+1:]] {
				ends[name[:i]] = append(ends[name[:i]], end{id, rest})
			}
		}
	}
	return ends
}

// finder looks for texts that mean two.
type finder struct {
	speller *speller
	all     []called
	within  func(text []byte, stack string) uint64
	ends    map[string][]end
	stacked map[uint64]int      // who is the first to be written so, with a stack
	short   map[uint64]int      // and without one, of each stack
	endings map[uint64][]ending // by the text without its end
	suspect map[uint64]bool
}

// ending is one whose text ends like a network.
type ending struct {
	of      int
	writing writing
	whole   uint64
	end
}

func (f *finder) hash(text []byte) uint64 { return f.within(text, "") }

// hasher makes a number of a text in a stack, for one caller at a time.
func hasher() func(text []byte, stack string) uint64 {
	h, room := fnv.New64a(), []byte(nil)
	return func(text []byte, stack string) uint64 {
		h.Reset()
		h.Write(text)
		if stack != "" {
			room = append(append(room[:0], 0), stack...)
			h.Write(room)
		}
		return h.Sum64()
	}
}

func (f *finder) takeApart(i int, text []byte, w writing) {
	if w.stacked {
		h := f.hash(text)
		f.note(f.stacked, h, i, h)
	}
	for at := range text {
		if text[at] != '.' {
			continue
		}
		for _, e := range f.ends[string(text[at+1:])] {
			h, p := f.hash(text[:at]), ending{i, w, f.hash(text), e}
			if e.rest != "" && !slices.Contains(f.speller.on(f.all[i]), e.rest) {
				continue
			}
			if f.fewAlike(f.endings[h], p) {
				f.endings[h] = append(f.endings[h], p)
			}
		}
	}
}

// fewAlike tells whether there are less than two others alike; see withMeant.
func (f *finder) fewAlike(list []ending, p ending) bool {
	alike := 0
	for _, have := range list {
		if have.whole != p.whole || have.end != p.end || have.writing != p.writing || !f.all[have.of].shares(f.all[p.of]) {
			continue
		}
		if alike++; alike == 2 || f.all[have.of].same(f.all[p.of]) {
			return false
		}
	}
	return true
}

func (f *finder) compare(i int, text []byte, w writing) {
	h, c := f.hash(text), f.all[i]
	for _, p := range f.endings[h] {
		further, beside := writing{w.stack, w.stacked, p.network}, writing{p.writing.stack, p.writing.stacked, p.rest}
		other := f.all[p.of]
		if slices.Contains(f.speller.on(c), p.network) && !c.same(other) && !c.shares(other) && beside.clashes(further) {
			f.suspect[h], f.suspect[p.whole] = true, true
		}
	}
	if w.stacked {
		return
	}
	f.note(f.short, f.within(text, w.stack), i, h)
	if bytes.IndexByte(text, '.') < 0 {
		return
	}
	if first, met := f.stacked[h]; met && !c.shares(f.all[first]) {
		f.suspect[h] = true
	}
}

// note compares one with the first who is written so: of those who share a name with that one, none
// is another to it.
func (f *finder) note(texts map[uint64]int, at uint64, i int, text uint64) {
	if first, met := texts[at]; !met {
		texts[at] = i
	} else if !f.all[i].shares(f.all[first]) {
		f.suspect[text] = true
	}
}
