package trace

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// statement runs one rule on a packet.
type statement struct {
	walk   *walk
	table  *plan.Table
	chain  *plan.Chain
	text   string
	reader *reader
	p      *packet
}

func (s *statement) line() string { return fmt.Sprintf("chain %s: %s", s.chain.Name, s.text) }

func (s *statement) unknown() error {
	return fmt.Errorf("read rule %q of chain %s: its shape is not known", s.text, s.chain.Name)
}

// run goes through the rule's parts. A match that fails ends the rule.
func (s *statement) run() (outcome, error) {
	for s.reader.more() {
		out, goes, err := s.part()
		if err != nil || !goes || out.verdict != goesOn {
			return out, err
		}
	}
	return outcome{}, nil
}

// part carries out one match or statement and tells whether the rule goes on.
func (s *statement) part() (outcome, bool, error) {
	switch r := s.reader; {
	case r.take("counter"), r.take("notrack"):
		return outcome{}, true, nil
	case r.take("accept"):
		return s.decide(accepts), true, nil
	case r.take("drop"):
		return s.decide(drops), true, nil
	case r.take("return"):
		return s.decide(returns), true, nil
	case r.take("reject"):
		r.take("with tcp reset")
		return s.decide(rejects), true, nil
	case r.take("jump"):
		return s.jump(r.next())
	case r.take("goto"):
		return s.goTo(r.next())
	case r.take("masquerade"):
		return s.masquerade()
	case r.take("snat ip to"), r.take("snat ip6 to"):
		return s.snat()
	case r.take("dnat ip to"), r.take("dnat ip6 to"):
		return s.dnat()
	case r.take("update"):
		return s.learn("update")
	case r.take("delete"):
		return s.learn("delete")
	case r.take("dup to"):
		return s.dup()
	case r.take("fwd to"):
		out := s.decide(forwards)
		out.device = strings.Trim(r.next(), `"`)
		return out, true, nil
	}
	sel := s.reader.selector()
	if len(sel.names) == 0 {
		return outcome{}, false, s.unknown()
	}
	if s.reader.take("set") {
		goes, err := s.assign(sel)
		return outcome{}, goes, err
	}
	if s.reader.take("vmap") {
		return s.verdictOf(sel)
	}
	goes, err := s.match(sel)
	return outcome{}, goes, err
}

func (s *statement) decide(v verdict) outcome {
	s.walk.rely(s.line())
	return outcome{verdict: v, by: s.line()}
}

func (s *statement) jump(name string) (outcome, bool, error) {
	i := slices.IndexFunc(s.table.Chains, func(c *plan.Chain) bool { return c.Name == name })
	if i < 0 {
		return outcome{}, false, s.unknown()
	}
	s.walk.rely(s.line())
	out, err := s.walk.rules(s.table, s.table.Chains[i], s.p)
	return out, true, err
}

// goTo does not come back to the chain that it is in.
func (s *statement) goTo(name string) (outcome, bool, error) {
	out, goes, err := s.jump(name)
	if err == nil && goes && out.verdict == goesOn {
		out.verdict = returns
	}
	return out, goes, err
}

// verdictOf is "SELECTOR vmap { VALUE : goto CHAIN, ... }".
func (s *statement) verdictOf(sel selector) (outcome, bool, error) {
	key, ok, err := s.key(sel)
	if err != nil || !ok {
		return outcome{}, false, err
	}
	for _, item := range items(s.reader.next()) {
		value, name, ok := strings.Cut(item, " : goto ")
		if !ok {
			return outcome{}, false, s.unknown()
		}
		if equal(key, value) {
			return s.goTo(name)
		}
	}
	return outcome{}, false, nil
}

// masquerade takes the address of the device that the packet leaves by.
func (s *statement) masquerade() (outcome, bool, error) {
	addr, err := s.walk.addressOn(s.p.oif, s.p.dst)
	s.p.src, s.p.snat = addr, true
	return s.decide(accepts), true, err
}

// snat gives the packet a source that the rule names.
func (s *statement) snat() (outcome, bool, error) {
	to, err := netip.ParseAddr(s.reader.next())
	if err != nil {
		return outcome{}, false, s.unknown()
	}
	s.p.src, s.p.snat = to, true
	return s.decide(accepts), true, nil
}

func (s *statement) dnat() (outcome, bool, error) {
	value, found, err := s.operand()
	if err != nil || !found {
		return outcome{}, false, err
	}
	addr, port, withPort := strings.Cut(value, plan.Join("", ""))
	to, err := netip.ParseAddr(addr)
	if err != nil {
		return outcome{}, false, s.unknown()
	}
	if withPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return outcome{}, false, s.unknown()
		}
		s.p.dport = uint16(n)
	}
	s.p.dst, s.p.dnat = to, true
	return s.decide(accepts), true, nil
}

// dup is "dup to ADDRESS device NAME": a copy leaves by the device, the packet goes on.
func (s *statement) dup() (outcome, bool, error) {
	s.reader.next()
	if !s.reader.take("device") {
		return outcome{}, false, s.unknown()
	}
	s.p.copied = strings.Trim(s.reader.next(), `"`)
	s.walk.rely(s.line())
	return outcome{}, true, nil
}

// operand is a value: a literal, a lot, a field, or "SELECTOR map @NAME". A missed
// map ends the rule.
func (s *statement) operand() (value string, found bool, err error) {
	switch {
	case s.reader.take("numgen random mod"):
		return s.lot()
	case s.reader.take("jhash"):
		key, ok, err := s.key(s.reader.selector())
		if err != nil || !ok || key == "" || !s.reader.take("mod") {
			return "", false, cmp.Or(err, s.unknown())
		}
		return s.lot()
	}
	sel := s.reader.selector()
	if len(sel.names) == 0 {
		return strings.Trim(s.reader.next(), `"`), true, nil
	}
	if !s.reader.take("map") {
		value, found, err = s.key(sel)
		return value, found, err
	}
	name, ok := strings.CutPrefix(s.reader.next(), "@")
	if !ok {
		return "", false, s.unknown()
	}
	key, ok, err := s.key(sel)
	if err != nil || !ok {
		return "", false, err
	}
	e, found, err := s.element(name, key)
	return e.Value, found, err
}

// lot is a number that the walk draws, below the one that comes next.
func (s *statement) lot() (string, bool, error) {
	n, err := strconv.Atoi(s.reader.next())
	if err != nil || n < 1 {
		return "", false, s.unknown()
	}
	if s.reader.take("seed") {
		s.reader.next()
	}
	offset := 0
	if s.reader.take("offset") {
		if offset, err = strconv.Atoi(s.reader.next()); err != nil {
			return "", false, s.unknown()
		}
	}
	s.walk.lots = n
	return strconv.Itoa(s.walk.draw%n + offset), true, nil
}

func (s *statement) assign(sel selector) (bool, error) {
	if len(sel.names) != 1 || sel.mask != "" {
		return false, s.unknown()
	}
	value, found, err := s.operand()
	if err != nil || !found {
		return false, err
	}
	if !s.p.set(sel.names[0], value) {
		return false, s.unknown()
	}
	s.walk.rely(s.line())
	return true, nil
}

// key joins the selector's fields as an element's key; false where the packet
// lacks one.
func (s *statement) key(sel selector) (string, bool, error) {
	parts := make([]string, len(sel.names))
	for i, name := range sel.names {
		value, ok := s.walk.field(s.p, name)
		if !ok {
			return "", false, nil
		}
		parts[i] = value
	}
	if sel.mask != "" {
		last := &parts[len(parts)-1]
		masked, err := mask(*last, sel.mask)
		if err != nil {
			return "", false, s.unknown()
		}
		*last = masked
	}
	return plan.Join(parts...), true, nil
}

// element looks a key up, and notes that the packet depended on what is there, or is not.
func (s *statement) element(name, key string) (plan.Element, bool, error) {
	set := s.set(name)
	if set == nil || set.Learned == 0 && strings.Contains(key, hashWord) {
		return plan.Element{}, false, s.unknown()
	}
	if set.Learned > 0 {
		return plan.Element{}, false, nil // whatever is there is as planned
	}
	o := Object{Sandbox: s.walk.sandbox.Name, ref: ref{family: familyOf(s.table), set: name, key: key}}
	k := slices.IndexFunc(set.Elements, func(e plan.Element) bool { return e.Key == key || set.Ranges && inRange(e.Key, key) })
	if k >= 0 {
		o.ref.key = set.Elements[k].Key
	}
	if k < 0 {
		s.walk.note(o)
		return plan.Element{}, false, nil
	}
	word := "set"
	if len(set.Value) > 0 {
		word = "map"
	}
	o.Line = fmt.Sprintf("%s %s: %s", word, name, set.Elements[k])
	s.walk.note(o)
	return set.Elements[k], true, nil
}

// match compares a selector with what follows it.
func (s *statement) match(sel selector) (bool, error) {
	op := "=="
	for _, known := range []string{"!=", "==", ">="} {
		if s.reader.take(known) {
			op = known
		}
	}
	operand := s.reader.next()
	if operand == "" {
		return false, s.unknown()
	}
	if len(sel.names) == 1 && (sel.names[0] == "tcp flags" || sel.names[0] == "ct status") {
		return s.flags(sel, op, operand)
	}
	key, ok, err := s.key(sel)
	if err != nil || !ok {
		return false, err
	}
	if name, isSet := strings.CutPrefix(operand, "@"); isSet {
		_, found, err := s.element(name, key)
		return found == (op == "=="), err
	}
	if len(sel.names) != 1 {
		return false, s.unknown()
	}
	if op == ">=" {
		a, b := number(key), number(operand)
		if a < 0 || b < 0 {
			return false, s.unknown()
		}
		return a >= b, nil
	}
	return slices.ContainsFunc(items(operand), func(item string) bool { return equal(key, item) }) == (op == "=="), nil
}

// flags compares "tcp flags & (a | b) OP c" and "ct status & a OP b".
func (s *statement) flags(sel selector, op, operand string) (bool, error) {
	value, ok := s.walk.field(s.p, sel.names[0])
	if !ok {
		return false, nil
	}
	if op == ">=" || sel.mask == "" {
		return false, s.unknown()
	}
	set := flagNames(value)
	seen := slices.DeleteFunc(flagNames(sel.mask), func(f string) bool { return !slices.Contains(set, f) })
	return slices.Equal(seen, flagNames(operand)) == (op == "=="), nil
}
