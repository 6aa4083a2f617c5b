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
		speller: s, all: all, within: hasher(), ends: s.ends(), endsOf: map[NetworkID][]end{}, stacked: make(map[uint64]int, len(all)), short: make(map[uint64]int, 2*len(all)),
		endings: map[uint64]map[end]*crowd{}, suspect: map[uint64]bool{},
	}
	for _, ends := range f.ends {
		for rest, networks := range ends {
			for _, id := range networks {
				f.endsOf[id] = append(f.endsOf[id], end{id, rest})
			}
		}
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
// or what is before another's name in it. They are by the rest.
func (s *speller) ends() map[string]map[NetworkID][]NetworkID {
	ends, called := map[string]map[NetworkID][]NetworkID{}, make(map[string][]NetworkID, len(s.networks))
	add := func(text string, rest, id NetworkID) {
		if ends[text] == nil {
			ends[text] = map[NetworkID][]NetworkID{}
		}
		ends[text][rest] = append(ends[text][rest], id)
	}
	for id, name := range s.networks {
		called[name] = append(called[name], id)
		add(name, "", id)
	}
	for id, name := range s.networks {
		for i := range len(name) {
			if name[i] != '.' {
				continue
			}
			for _, rest := range called[name[i+1:]] {
				add(name[:i], rest, id)
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
	ends    map[string]map[NetworkID][]NetworkID
	endsOf  map[NetworkID][]end
	stacked map[uint64]int            // who is the first to be written so, with a stack
	short   map[uint64]int            // and without one, of each stack
	endings map[uint64]map[end]*crowd // by the text without its end
	suspect map[uint64]bool
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
		ends, met := f.ends[string(text[at+1:])]
		if !met {
			continue
		}
		m, begin, whole := meant{f.all[i], w}, f.hash(text[:at]), f.hash(text)
		add := func(rest NetworkID) {
			m.network = rest
			for _, id := range ends[rest] {
				f.ending(begin, end{id, rest}, whole).add(m, i, []NetworkID{nowhere})
			}
		}
		if add(""); len(ends) > 1 || len(ends[""]) == 0 {
			for _, rest := range f.speller.on(f.all[i]) {
				add(rest)
			}
		}
	}
}

// crowd are those whose text has one beginning and one end. Where they are is in the end.
type crowd struct {
	holders
	whole uint64
	found bool
}

func (f *finder) ending(begin uint64, e end, whole uint64) *crowd {
	if f.endings[begin] == nil {
		f.endings[begin] = map[end]*crowd{}
	}
	if f.endings[begin][e] == nil {
		f.endings[begin][e] = &crowd{whole: whole}
	}
	return f.endings[begin][e]
}

func (f *finder) compare(i int, text []byte, w writing) {
	h, c := f.hash(text), f.all[i]
	if ends := f.endings[h]; len(ends) > 0 {
		f.compareEnds(ends, h, meant{c, w})
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

// compareEnds compares one whose text is h with those that may be written like it on one of its networks.
func (f *finder) compareEnds(ends map[end]*crowd, h uint64, m meant) {
	for _, id := range f.speller.on(m.called) {
		m.network = id
		for _, e := range f.endsOf[id] {
			have := ends[e]
			if have == nil || have.found {
				continue
			}
			others := have.against(m)
			f.speller.looked += others.looked
			if len(others.on) > 0 {
				have.found, f.suspect[h], f.suspect[have.whole] = true, true, true
			}
		}
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
