package scenarios

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// notAsked is the outcome where no packet passes.
const notAsked = "not asked"

// parseSame: each client reaches one endpoint, through whichever node.
func parseSame(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many clients")
	if err != nil {
		return nil, err
	}
	to, err := w.target()
	hows := w.hows()
	return each(hows, func(r *run, s Step, how How) error {
		var first []string
		differ, known := 0, true
		for _, at := range to.at {
			names, ok, err := r.fabric.Clients(n, ask{from: manyName, to: at, port: to.port, how: how})
			if err != nil {
				return err
			}
			if first == nil {
				first = names
			}
			differ += movedOf(first, names)
			known = known && ok
		}
		r.told(s, how, known, differ == 0, fmt.Sprintf("%d clients differ", differ))
		return nil
	}), err
}

// told notes an outcome that is within its bound, or says what it was instead.
func (r *run) told(s Step, how How, asked, within bool, got string) {
	const fine = "within bound"
	switch {
	case !asked:
		r.tell(s, how, notAsked, notAsked)
	case within:
		r.tell(s, how, fine, fine)
	default:
		r.tell(s, how, fine, got)
	}
}

func movedOf(before, after []string) int { return movedBesides(before, after, "") }

// movedBesides counts those who reach another endpoint than before, but for the clients of one.
func movedBesides(before, after []string, but string) int {
	if len(before) != len(after) {
		return max(len(before), len(after))
	}
	n := 0
	for i := range before {
		if before[i] != after[i] && before[i] != but {
			n++
		}
	}
	return n
}

func noteKey(t target, how How) string { return fmt.Sprintf("%s:%d %s", t.at[0], t.port, how) }

func parseNote(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many clients")
	if err != nil {
		return nil, err
	}
	to, err := w.single()
	hows := w.hows()
	return each(hows, func(r *run, _ Step, how How) error {
		names, _, err := r.fabric.Clients(n, ask{from: manyName, to: to.at[0], port: to.port, how: how})
		if err != nil {
			return err
		}
		r.noted[noteKey(to, how)] = names
		return nil
	}), err
}

func parseMoved(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many clients")
	if err != nil {
		return nil, err
	}
	to, err := w.single()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	but := ""
	if w.take("besides") {
		but = w.next()
	}
	if !w.take("<=") {
		return nil, errors.New("write moved N NODE:PORT besides ENDPOINT <= 2%")
	}
	bound, err := fraction(w.next())
	return each(hows, func(r *run, s Step, how How) error {
		names, ok, err := r.fabric.Clients(n, ask{from: manyName, to: to.at[0], port: to.port, how: how})
		if err != nil {
			return err
		}
		moved := movedBesides(r.noted[noteKey(to, how)], names, but)
		r.told(s, how, ok, float64(moved) <= bound*float64(len(names)), fmt.Sprintf("%d of %d moved: %v, now %v", moved, len(names), r.noted[noteKey(to, how)], names))
		return nil
	}), err
}

// fraction reads 1/3 or 2%.
func fraction(text string) (float64, error) {
	bad := fmt.Errorf("%q is not like 1/3 or 2%%", text)
	if percent, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(percent, 64)
		if err != nil {
			return 0, bad
		}
		return n / 100, nil
	}
	a, b, ok := strings.Cut(text, "/")
	above, err := strconv.ParseFloat(a, 64)
	below, err2 := strconv.ParseFloat(b, 64)
	if !ok || err != nil || err2 != nil || below == 0 {
		return 0, bad
	}
	return above / below, nil
}

// bound is how far a count may be from its share.
type bound struct {
	count float64 // connections
	sigma float64 // of a binomial distribution; 0: count is meant
}

func (b bound) allows(n int, share float64, got int) bool {
	limit := b.count
	if b.sigma > 0 {
		limit = b.sigma * math.Sqrt(float64(n)*share*(1-share))
	}
	return math.Abs(float64(got)-share*float64(n)) <= limit
}

func (w *words) bound() (b bound, err error) {
	if !w.take("within") {
		return b, errors.New(`"within N" or "within N sigma" is missing`)
	}
	n, err := w.number("the bound")
	if w.take("sigma") {
		return bound{sigma: float64(n)}, err
	}
	return bound{count: float64(n)}, err
}

// shares reads "a 1/2, b 1/2".
func (w *words) shares() (map[string]float64, error) {
	if !w.take("->") {
		return nil, errors.New(`"-> NAME SHARE, ..." is missing`)
	}
	shares := map[string]float64{}
	for more := true; more; {
		name := w.next()
		var share string
		share, more = strings.CutSuffix(w.next(), ",")
		f, err := fraction(share)
		if err != nil {
			return nil, err
		}
		shares[name] = f
	}
	return shares, nil
}

func parseSpread(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many connections")
	if err != nil {
		return nil, err
	}
	from := w.next()
	to, err := w.single()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	shares, err := w.shares()
	if err != nil {
		return nil, err
	}
	limit, err := w.bound()
	return each(hows, func(r *run, s Step, how How) error {
		a, err := r.ask(from, to, how)
		if err != nil {
			return err
		}
		got, ok, err := r.fabric.Spread(n, a)
		if err != nil {
			return err
		}
		r.told(s, how, ok, spreadWithin(n, got, shares, limit), fmt.Sprint(got))
		return nil
	}), err
}

// parseStick: one client's connections all reach one endpoint.
func parseStick(w *words) (func(r *run, s Step), error) {
	n, err := w.number("how many connections")
	if err != nil {
		return nil, err
	}
	from := w.next()
	to, err := w.single()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	return each(hows, func(r *run, s Step, how How) error {
		a, err := r.ask(from, to, how)
		if err != nil {
			return err
		}
		got, ok, err := r.fabric.Spread(n, a)
		if err != nil {
			return err
		}
		failed := got[refused] + got[reset] + got[silence] + got[unreachable]
		r.told(s, how, ok, len(got) == 1 && failed == 0, fmt.Sprint(got))
		return nil
	}), nil
}

func spreadWithin(n int, got map[string]int, shares map[string]float64, limit bound) bool {
	for name := range got {
		if _, expected := shares[name]; !expected {
			return false
		}
	}
	for name, share := range shares {
		if !limit.allows(n, share, got[name]) {
			return false
		}
	}
	return true
}
