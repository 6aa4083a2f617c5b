package trace

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// reader goes through the words of a rule. What stands in braces or brackets is
// one word.
type reader struct {
	words []string
	at    int
}

func newReader(text string) (*reader, error) {
	r := &reader{}
	closing := map[string]string{"{": "}", "(": ")"}
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		if end, ok := closing[rest[:1]]; ok {
			inside, after, found := strings.Cut(rest, end)
			if !found {
				return nil, fmt.Errorf("read rule %q: %s is missing", text, end)
			}
			r.words = append(r.words, inside+end)
			rest = after
			continue
		}
		word, after, _ := strings.Cut(rest, " ")
		r.words = append(r.words, word)
		rest = after
	}
	return r, nil
}

func (r *reader) more() bool { return r.at < len(r.words) }

func (r *reader) next() string {
	if !r.more() {
		return ""
	}
	r.at++
	return r.words[r.at-1]
}

// take goes on where the next words are these.
func (r *reader) take(words string) bool {
	want := strings.Fields(words)
	if r.at+len(want) > len(r.words) || !slices.Equal(r.words[r.at:r.at+len(want)], want) {
		return false
	}
	r.at += len(want)
	return true
}

// selector is one or several fields joined by " . ", the last one perhaps masked.
type selector struct {
	names []string
	mask  string
}

// selector reads one; none where the next word begins none.
func (r *reader) selector() selector {
	var s selector
	for {
		if name, ok := r.hash(); ok {
			s.names = append(s.names, name)
		} else if i := slices.IndexFunc(fields(), r.take); i >= 0 {
			s.names = append(s.names, fields()[i])
		} else {
			return s
		}
		if r.take("&") {
			s.mask = r.next()
			return s
		}
		if !r.take(".") {
			return s
		}
	}
}

func flagNames(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("()| ", r) })
}

// items are the alternatives of an anonymous set or a list.
func items(operand string) []string {
	list := strings.Split(strings.Trim(operand, "{} "), ",")
	for i, item := range list {
		list[i] = strings.TrimSpace(item)
	}
	return list
}

// equal compares a field with one alternative: a name, perhaps with a star at its
// end, a prefix, a number, or a word.
func equal(value, item string) bool {
	if name, ok := strings.CutPrefix(item, `"`); ok {
		name = strings.TrimSuffix(name, `"`)
		if start, star := strings.CutSuffix(name, "*"); star {
			return strings.HasPrefix(value, start)
		}
		return value == name
	}
	if prefix, err := netip.ParsePrefix(item); err == nil {
		addr, err := netip.ParseAddr(value)
		return err == nil && prefix.Contains(addr)
	}
	if n := number(item); n >= 0 {
		return number(value) == n
	}
	return value == item
}

// number is -1 for what is none.
func number(text string) int64 {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return -1
	}
	return int64(n)
}

// mask applies a mask to a mark or an address.
func mask(value, by string) (string, error) {
	if n, m := number(value), number(by); n >= 0 && m >= 0 {
		return plan.HexMark(uint32(n & m)), nil
	}
	addr, err := netip.ParseAddr(value)
	if err != nil {
		return "", err
	}
	bits, err := netip.ParseAddr(by)
	if err != nil {
		return "", err
	}
	a, b := addr.AsSlice(), bits.AsSlice()
	if len(a) != len(b) {
		return "", fmt.Errorf("mask %s does not fit %s", by, value)
	}
	for i := range a {
		a[i] &= b[i]
	}
	masked, _ := netip.AddrFromSlice(a)
	return masked.String(), nil
}
