package plan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Table is one nft table. Chains are fixed text that changes only with the
// node's own constants; everything that comes and goes is an element of a set or
// map, which the kernel package sends by netlink. Its key is Family (all our
// tables but a Lock have the one name TableName).
type Table struct {
	Family string // inet, netdev or bridge
	Name   string // "": TableName
	Sets   []*Set
	Chains []*Chain
}

// Chain is a base chain (Base is its hook line) or a regular one (Base is "").
type Chain struct {
	Name  string
	Base  string // "type filter hook forward priority filter; policy drop;"
	Rules []string
}

// Field is the type of one part of an element's key or value, in nft's words.
type Field string

// The types of field that elements are made of, and their text form.
const (
	FieldIPv4  Field = "ipv4_addr"    // 198.18.0.5
	FieldIPv6  Field = "ipv6_addr"    // fd00::5
	FieldMAC   Field = "ether_addr"   // 02:53:e0:00:00:01
	FieldProto Field = "inet_proto"   // tcp, udp, sctp
	FieldPort  Field = "inet_service" // 8080
	FieldMark  Field = "mark"         // 0x80000001
	FieldIface Field = "ifname"       // uplink
	FieldZone  Field = "zone"         // 1: a conntrack zone; nft has no name for the type
	// The target of an IPv6 neighbour advertisement: TargetText. nft 1.0.6 has no name for it.
	FieldTarget Field = "target"
	FieldWord   Field = "word" // 32 bits, of which only learned sets have any: no text form, and no name in nft
)

// Set is a named set, or a map where Value is not empty. Its key is Name.
//
// In a learned one the elements are what packets and events put there, each with a
// timeout. They are no part of a plan: Elements is empty, and whatever a kernel holds is as
// it should be. They stay when the rules around them change, and go where Name, Key, Value,
// Learned or Expires change.
type Set struct {
	Name    string
	Key     []Field
	Value   []Field       // empty: a set
	Learned int           // how many it may learn; 0: it is not a learned one
	Expires time.Duration // of what a learned one holds, whole seconds; 0: what puts it there says so
	// Ranges: ports and addresses in a key may be ranges, "8000-8010", "10.0.0.0-10.255.255.255";
	// such a set costs more to change.
	Ranges   bool
	Elements []Element
}

// Element is one member. Key and Value are their fields' text joined by " . ".
type Element struct{ Key, Value string }

// Join writes the fields of one key or value in their text form.
func Join(fields ...string) string { return strings.Join(fields, " . ") }

// Table returns the table of a family, making it at first use.
func (s *Sandbox) Table(family string) *Table {
	for _, t := range s.Tables {
		if t.Family == family {
			return t
		}
	}
	t := &Table{Family: family}
	s.Tables = append(s.Tables, t)
	return t
}

// Chain returns a chain by name, making it with the hook line base at first use.
func (t *Table) Chain(name, base string) *Chain {
	for _, c := range t.Chains {
		if c.Name == name {
			return c
		}
	}
	c := &Chain{Name: name, Base: base}
	t.Chains = append(t.Chains, c)
	return c
}

// Rule appends rules in nft syntax. What is put into their text are constants
// of this node and cluster, never a name somebody chose.
func (c *Chain) Rule(rules ...string) { c.Rules = append(c.Rules, rules...) }

// Set returns a set by name, making it at first use.
func (t *Table) Set(name string, key ...Field) *Set {
	for _, s := range t.Sets {
		if s.Name == name {
			return s
		}
	}
	s := &Set{Name: name, Key: key}
	t.Sets = append(t.Sets, s)
	return s
}

// Map returns a map by name, making it at first use.
func (t *Table) Map(name string, value Field, key ...Field) *Set {
	s := t.Set(name, key...)
	s.Value = []Field{value}
	return s
}

// Learn returns a learned map by name, making it at first use.
func (t *Table) Learn(name string, limit int, value Field, key ...Field) *Set {
	s := t.Map(name, value, key...)
	s.Learned = limit
	return s
}

// Remember returns a learned set by name, making it at first use.
func (t *Table) Remember(name string, limit int, expires time.Duration, key ...Field) *Set {
	s := t.Set(name, key...)
	s.Learned, s.Expires = limit, expires
	return s
}

// Add puts one member into a set.
func (s *Set) Add(key ...string) { s.Elements = append(s.Elements, Element{Key: Join(key...)}) }

// Put puts one member into a map.
func (s *Set) Put(value string, key ...string) {
	s.Elements = append(s.Elements, Element{Key: Join(key...), Value: value})
}

// Skeleton is the table in nft syntax without elements: what the nft program is
// given in one transaction. The same chains and sets always give the same bytes.
func (t *Table) Skeleton() string { return t.text(noElements) }

// Ruleset is the table in nft syntax with its elements, as nft --check takes it.
func (t *Table) Ruleset() string { return t.text((*Set).elements) }

// Bare is the table with its chains and sets and no element in them.
func (t *Table) Bare() *Table {
	bare := &Table{Family: t.Family, Chains: t.Chains, Sets: make([]*Set, len(t.Sets))}
	for i, s := range t.Sets {
		bare.Sets[i] = s.Bare()
	}
	return bare
}

// Bare is the set without elements.
func (s *Set) Bare() *Set {
	return &Set{Name: s.Name, Key: s.Key, Value: s.Value, Learned: s.Learned, Expires: s.Expires, Ranges: s.Ranges}
}

// Called is the table's name.
func (t *Table) Called() string { return cmp.Or(t.Name, TableName) }

func noElements(*Set) string { return "" }

func (t *Table) text(elements func(*Set) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", t.Family, t.Called())
	for _, s := range t.Sets {
		fmt.Fprintf(&b, "\t%s%s }\n", s.declaration(), elements(s))
	}
	for _, c := range t.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Base != "" {
			fmt.Fprintf(&b, "\t\t%s\n", c.Base)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// declaration is the set's head. A conntrack zone and a word have a type but no type name
// in nft (1.0.6), so where one occurs the declaration is by example expression.
func (s *Set) declaration() string {
	word := "set"
	if len(s.Value) > 0 {
		word = "map"
	}
	by, name := "type", func(f Field) string { return string(f) }
	if s.has(FieldZone) || s.has(FieldWord) || s.has(FieldTarget) {
		by, name = "typeof", expression
	}
	text := by + " " + join(s.Key, name)
	if len(s.Value) > 0 {
		text += " : " + join(s.Value, name)
	}
	if s.Ranges {
		text += "; flags interval"
	}
	if s.Learned > 0 {
		text += fmt.Sprintf("; size %d; flags dynamic,timeout", s.Learned)
	}
	if s.Expires > 0 {
		text += fmt.Sprintf("; timeout %ds", int(s.Expires/time.Second))
	}
	return fmt.Sprintf("%s %s { %s;", word, s.Name, text)
}

// TargetText is an IPv6 address as the text of a FieldTarget.
func TargetText(a netip.Addr) string { return fmt.Sprintf("0x%x", a.As16()) }

func (s *Set) has(f Field) bool {
	return slices.Contains(s.Key, f) || slices.Contains(s.Value, f)
}

func join(fields []Field, name func(Field) string) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = name(f)
	}
	return Join(names...)
}

// expression gives an nft expression of the field's type, for typeof. As a
// key a zone is "ct original zone", as a value "ct zone": the type is the same.
func expression(f Field) string {
	switch f {
	case FieldZone:
		return "ct original zone"
	case FieldMAC:
		return "ether saddr"
	case FieldIface:
		return "iifname"
	case FieldTarget:
		return "@th,64,128"
	case FieldMark:
		return "meta mark"
	case FieldWord:
		return "@nh,64,32" // the first of an IPv6 source address: nft lists no set by the example of a hash
	default:
		return string(f)
	}
}

func (s *Set) elements() string {
	if len(s.Elements) == 0 {
		return ""
	}
	items := make([]string, len(s.Elements))
	for i, e := range s.Elements {
		items[i] = quoteNames(s.Key, e.Key)
		if e.Value != "" {
			items[i] += " : " + quoteNames(s.Value, e.Value)
		}
	}
	return " elements = { " + strings.Join(items, ", ") + " }"
}

// quoteNames puts quotes round device names, since one may be a word of nft's
// (a bridge called "ip"). The kernel package lets no name with a quote in.
func quoteNames(fields []Field, text string) string {
	parts := strings.Split(text, Join("", ""))
	for i, f := range fields {
		if f == FieldIface && i < len(parts) {
			parts[i] = `"` + parts[i] + `"`
		}
	}
	return Join(parts...)
}
