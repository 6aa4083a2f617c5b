package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// An element of a set with ranges has two keys, of its first and its last member, also where
// these are one: so nft itself writes it. All fields but the last are equal in both.

// encodeRange is a key in the kernel's form, from and to.
func encodeRange(fields []plan.Field, text string) (from, to []byte, err error) {
	if len(fields) < 2 {
		return nil, nil, errors.New("a range has a field before it")
	}
	i := strings.LastIndex(text, plan.Join("", ""))
	if i < 0 {
		return nil, nil, fmt.Errorf("%q has one field, its type %d", text, len(fields))
	}
	before, last := text[:i], text[i+len(plan.Join("", "")):]
	first, end, err := rangeEnds(fields[len(fields)-1], last)
	if err != nil {
		return nil, nil, err
	}
	if from, err = encodeFields(fields, plan.Join(before, first)); err != nil {
		return nil, nil, err
	}
	if to, err = encodeFields(fields, plan.Join(before, end)); err != nil {
		return nil, nil, err
	}
	if back, err := decodeRange(fields, from, to); err != nil || back != text {
		return nil, nil, fmt.Errorf("%q is not how a range is written (%s)", text, back)
	}
	return from, to, nil
}

// rangeEnds are first and last of a range, or of one member.
func rangeEnds(f plan.Field, text string) (first, last string, err error) {
	switch f {
	case plan.FieldPort:
		first, last, ranges := strings.Cut(text, "-")
		if !ranges {
			last = first
		}
		return first, last, nil
	case plan.FieldIPv4, plan.FieldIPv6:
		if p, err := netip.ParsePrefix(text); err == nil {
			return p.Addr().String(), lastOf(p).String(), nil
		}
		first, last, ranges := strings.Cut(text, "-")
		if !ranges {
			last = first
		}
		return first, last, nil
	default:
		return "", "", fmt.Errorf("a %s has no ranges", f)
	}
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
	end := len(fields) - 1
	if !slices.Equal(a[:end], b[:end]) {
		return "", errors.New("a range in another field than the last")
	}
	if bytes.Compare(from, to) > 0 {
		return "", fmt.Errorf("a range that ends before it begins: %s-%s", a[end], b[end])
	}
	a[end] = rangeText(fields[end], a[end], b[end])
	return plan.Join(a...), nil
}

// rangeText writes a range of more than one member.
func rangeText(f plan.Field, first, last string) string {
	if f == plan.FieldIPv4 || f == plan.FieldIPv6 {
		from, err := netip.ParseAddr(first)
		to, fault := netip.ParseAddr(last)
		if err == nil && fault == nil {
			for bits := range from.BitLen() {
				if p := netip.PrefixFrom(from, bits); p.Masked() == p && lastOf(p) == to {
					return p.String()
				}
			}
		}
	}
	return first + "-" + last
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// overlap names two elements of a set with ranges that have a member in common; the kernel
// takes no such set.
func overlap(s *plan.Set) (twice []plan.Element, err error) {
	type span struct {
		rawElement
		plan.Element
	}
	spans := make([]span, len(s.Elements))
	for i, e := range s.Elements {
		raw, err := keyBytes(s, e)
		if err != nil {
			return nil, err
		}
		spans[i] = span{raw, e}
	}
	// All fields but the last are equal in both ends, so those of one group are neighbours.
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.key, b.key) })
	for i := range spans[min(1, len(spans)):] {
		if bytes.Compare(spans[i+1].key, spans[i].end) <= 0 {
			return []plan.Element{spans[i].Element, spans[i+1].Element}, nil
		}
	}
	return nil, nil
}

// setElemKeyEnd is NFTA_SET_ELEM_KEY_END, which the library lacks.
const setElemKeyEnd = 10
