package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// An element of a set with ranges has two keys, of its first and its last member, also where
// these are one: so nft itself writes it. The kernel has such sets for keys of two fields and
// more only; those of one are made of something else.

// setElemKeyEnd is NFTA_SET_ELEM_KEY_END, which the library lacks.
const setElemKeyEnd = 10

// canRange tells whether a field may be a range. Others have text with a "-" in it, or no order.
func canRange(f plan.Field) bool {
	return f == plan.FieldPort || f == plan.FieldIPv4 || f == plan.FieldIPv6
}

var errOneField = errors.New("a set with ranges has a key of two fields or more")

// encodeRange is a key in the kernel's form, from and to.
func encodeRange(fields []plan.Field, text string) (from, to []byte, err error) {
	if len(fields) < 2 {
		return nil, nil, errOneField
	}
	first := strings.Split(text, plan.Join("", ""))
	last := slices.Clone(first)
	for i, f := range fields[:min(len(fields), len(first))] {
		if a, b, isRange := strings.Cut(first[i], "-"); isRange && canRange(f) {
			first[i], last[i] = a, b
		}
	}
	if from, err = encodeFields(fields, plan.Join(first...)); err != nil {
		return nil, nil, err
	}
	if to, err = encodeFields(fields, plan.Join(last...)); err != nil {
		return nil, nil, err
	}
	if back, err := decodeRange(fields, from, to); err != nil || back != text {
		return nil, nil, fmt.Errorf("%q is not how a range is written (%s)", text, back)
	}
	return from, to, nil
}

// decodeRange is the inverse of encodeRange.
func decodeRange(fields []plan.Field, from, to []byte) (string, error) {
	if to == nil {
		to = from
	}
	first, err := decodeFields(fields, from)
	if err != nil || bytes.Equal(from, to) {
		return first, err
	}
	last, err := decodeFields(fields, to)
	if err != nil {
		return "", err
	}
	a, b := strings.Split(first, plan.Join("", "")), strings.Split(last, plan.Join("", ""))
	starts, ends := slots(fields, from), slots(fields, to)
	for i, f := range fields {
		switch c := bytes.Compare(starts[i], ends[i]); {
		case c == 0:
		case !canRange(f):
			return "", fmt.Errorf("a range of %s", f)
		case c > 0:
			return "", fmt.Errorf("a range that ends before it begins: %s-%s", a[i], b[i])
		default:
			a[i] += "-" + b[i]
		}
	}
	return plan.Join(a...), nil
}

// slots are the fields of a concatenation, padded as they are.
func slots(fields []plan.Field, key []byte) [][]byte {
	parts := make([][]byte, len(fields))
	for i, f := range fields {
		codec, _ := codecOf(f) // the key was made with it
		size := codec.size + padding(codec.size)
		parts[i], key = key[:size], key[size:]
	}
	return parts
}

// extent is an element as what it contains.
type extent struct {
	plan.Element
	from, to [][]byte // by field
}

func (s *extent) meets(other *extent) bool {
	for i := range s.from {
		if bytes.Compare(s.to[i], other.from[i]) < 0 || bytes.Compare(other.to[i], s.from[i]) < 0 {
			return false
		}
	}
	return true
}

// overlap finds two elements of a set with ranges that have a member in common. The kernel
// refuses one whose end is in another; which of two it would find is then nobody's to say.
func overlap(s *plan.Set) (both []plan.Element, err error) {
	spans := make([]*extent, len(s.Elements))
	for i, e := range s.Elements {
		raw, err := keyBytes(s, e)
		if err != nil {
			return nil, err
		}
		spans[i] = &extent{e, slots(s.Key, raw.key), slots(s.Key, raw.end)}
	}
	by := sharpest(s.Key, spans)
	slices.SortFunc(spans, func(a, b *extent) int { return bytes.Compare(a.from[by], b.from[by]) })
	var open []*extent // those that may reach into the next
	for _, next := range spans {
		open = slices.DeleteFunc(open, func(s *extent) bool { return bytes.Compare(s.to[by], next.from[by]) < 0 })
		for _, s := range open {
			if s.meets(next) {
				return []plan.Element{s.Element, next.Element}, nil
			}
		}
		open = append(open, next)
	}
	return nil, nil
}

// sharpest is the field in which the elements differ most.
func sharpest(fields []plan.Field, spans []*extent) (by int) {
	most := 0
	for i := range fields {
		differ := map[string]bool{}
		for _, s := range spans {
			differ[string(s.from[i])] = true
		}
		if len(differ) > most {
			by, most = i, len(differ)
		}
	}
	return by
}
