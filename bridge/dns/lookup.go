package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/mesh"
)

// Kind says what a Zone knows about a question.
type Kind int

// The kinds of answers.
const (
	NotOurs Kind = iota // the cluster has no say; somebody else may know
	Found
	NoData // the name exists and has nothing of that type: NOERROR without a record
	NoName // ours to say, and there is none: NXDOMAIN
)

// Answer is what a Zone answers. Its records are the caller's.
type Answer struct {
	Kind    Kind
	Records []dns.RR
	Extra   []dns.RR // addresses of SRV targets
}

// Lookup answers q for a. turn is where lists of addresses begin, modulo their length: a
// random one spreads clients that take the first. Owner names keep the case of the question.
func (z *Zone) Lookup(a *Asker, q dns.Question, turn uint32) Answer {
	name := lower(strings.TrimSuffix(q.Name, "."))
	if name == "" || strings.Contains(name, `\`) {
		return Answer{}
	}
	if ip, ok := parseReverse(name); ok {
		return z.pointers(a, q, ip)
	}
	if name[0] == '_' {
		return z.service(a, q, name, turn)
	}
	found, sc := z.find(a, name)
	if len(found) == 0 {
		return Answer{}
	}
	return answerOf(z.addresses(q, found, sc, turn))
}

func answerOf(records []dns.RR) Answer {
	if len(records) == 0 {
		return Answer{Kind: NoData}
	}
	return Answer{Kind: Found, Records: records}
}

// find returns who bears a name and is seen by the asker, and on which networks the question
// looks. A plain name comes before name.stack, and that before name.network: a name that
// somebody bears as it is written is never taken apart.
func (z *Zone) find(a *Asker, name string) ([]bearer, scope) {
	all := a.scope(name)
	if found := z.within(a, name, all); len(found) > 0 {
		return found, all
	}
	for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
		id, known := z.named[name[at+1:]]
		if !known || !all.has(id) {
			continue
		}
		one := scope{networks: []mesh.NetworkID{id}, asker: a, asked: name}
		if found := z.within(a, name[:at], one); len(found) > 0 {
			return found, one
		}
	}
	return nil, scope{}
}

// within looks in the asker's own stack, among what is in no stack, and last in the stack that
// the name itself says. Another stack's equal name is not a candidate.
func (z *Zone) within(a *Asker, name string, sc scope) []bearer {
	own := lower(a.Stack)
	if found := z.seen(key{own, name}, sc); len(found) > 0 {
		return found
	}
	if own != "" {
		if found := z.seen(key{"", name}, sc); len(found) > 0 {
			return found
		}
	}
	for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
		if found := z.seen(key{name[at+1:], name[:at]}, sc); len(found) > 0 {
			return found
		}
	}
	return nil
}

// seen returns the bearers of k within sc that are of the lowest rank.
func (z *Zone) seen(k key, sc scope) []bearer {
	bearers := z.names[k]
	first := -1
	for i, b := range bearers {
		if first >= 0 && b.rank != bearers[first].rank {
			return visible(bearers[first:i], sc)
		}
		if first < 0 && b.seenIn(sc) {
			first = i
		}
	}
	if first < 0 {
		return nil
	}
	return visible(bearers[first:], sc)
}

func visible(bearers []bearer, sc scope) []bearer {
	if len(bearers) == 1 {
		return bearers
	}
	var out []bearer
	for _, b := range bearers {
		if b.seenIn(sc) {
			out = append(out, b)
		}
	}
	return out
}

func (b bearer) seenIn(sc scope) bool {
	if b.host.hiddenFrom(sc.asker, sc.asked) {
		return false
	}
	for _, id := range b.host.on {
		if (b.only == "" || b.only == id) && sc.has(id) {
			return true
		}
	}
	return false
}

// addresses are the A or AAAA records that the bearers give.
func (z *Zone) addresses(q dns.Question, bearers []bearer, sc scope, turn uint32) []dns.RR {
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		return nil
	}
	var ips []netip.Addr
	for _, b := range bearers {
		for _, g := range b.host.groups {
			if b.only != "" && b.only != g.network || !sc.has(g.network) {
				continue
			}
			if q.Qtype == dns.TypeA {
				ips = append(ips, g.v4...)
			} else {
				ips = append(ips, g.v6...)
			}
		}
	}
	out := make([]dns.RR, len(ips))
	for i := range ips {
		out[i] = z.address(q.Name, ips[(uint64(i)+uint64(turn))%uint64(len(ips))])
	}
	return out
}

func (z *Zone) address(owner string, ip netip.Addr) dns.RR {
	header := dns.RR_Header{Name: owner, Class: dns.ClassINET, Ttl: z.ttl}
	if ip.Is4() {
		header.Rrtype = dns.TypeA
		return &dns.A{Hdr: header, A: ip.AsSlice()}
	}
	header.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: header, AAAA: ip.AsSlice()}
}

// service answers _port._proto.name (RFC 2782). port is a port's name or its number.
func (z *Zone) service(a *Asker, q dns.Question, name string, turn uint32) Answer {
	port, rest, _ := strings.Cut(name[1:], ".")
	proto, rest, ok := strings.Cut(rest, ".")
	if !ok || !strings.HasPrefix(proto, "_") {
		return Answer{}
	}
	found, sc := z.find(a, rest)
	if len(found) == 0 {
		return Answer{}
	}
	known := false
	var out Answer
	for _, b := range found {
		for _, p := range b.host.ports {
			number, ok := p.matches(port, proto[1:])
			if !ok {
				continue
			}
			known = true
			if q.Qtype == dns.TypeSRV {
				z.addTargets(&out, q, b, target{rest: rest, port: number, scope: sc})
			}
		}
	}
	switch {
	case !known:
		return Answer{Kind: NoName}
	case len(out.Records) == 0:
		return Answer{Kind: NoData}
	}
	by := int(turn % uint32(len(out.Records)))
	out.Records = slices.Concat(out.Records[by:], out.Records[:by])
	out.Kind = Found
	return out
}

// matches gives the number that is meant by a port's name or by its number.
func (p Port) matches(port, proto string) (uint16, bool) {
	if string(p.Proto) != proto || port == "" {
		return 0, false
	}
	if lower(p.Name) == port {
		return p.Number, true
	}
	asked, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(asked, 10) != port {
		return 0, false
	}
	number := uint16(asked)
	return number, p.Number <= number && number <= max(p.Number, p.Last)
}

// target is what SRV records are made of beside their owner.
type target struct {
	rest  string // the name that was asked for, without _port._proto
	port  uint16
	scope scope
}

// addTargets adds the records for one bearer: the name itself where it has an address of its
// own, each endpoint where it stands for several.
func (z *Zone) addTargets(out *Answer, q dns.Question, b bearer, t target) {
	add := func(name string, h *host) {
		if h.hiddenFrom(t.scope.asker, name) {
			return
		}
		name += "."
		v4 := z.addresses(dns.Question{Name: name, Qtype: dns.TypeA}, []bearer{{only: b.only, host: h}}, t.scope, 0)
		v6 := z.addresses(dns.Question{Name: name, Qtype: dns.TypeAAAA}, []bearer{{only: b.only, host: h}}, t.scope, 0)
		if len(v4)+len(v6) == 0 {
			return
		}
		out.Records = append(out.Records, &dns.SRV{
			Hdr:    dns.RR_Header{Name: q.Name, Rrtype: dns.TypeSRV, Class: dns.ClassINET, Ttl: z.ttl},
			Weight: 1, Port: t.port, Target: name,
		})
		out.Extra = append(append(out.Extra, v4...), v6...)
	}
	if len(b.host.targets) == 0 {
		add(t.rest, b.host)
		return
	}
	for _, h := range b.host.targets {
		add(h.full(), h)
	}
}

// hiddenFrom tells whether an asker hears an older one by a whole text. It may do so on any of its
// networks, whichever one the text names.
func (h *host) hiddenFrom(a *Asker, text string) bool {
	return slices.ContainsFunc(h.shadowed, func(s mesh.Shadow) bool {
		return s.Text == text && slices.ContainsFunc(s.On, a.scope("").has)
	})
}

// full is the name that means h whoever asks, as far as a name can.
func (h *host) full() string {
	if h.stack == "" {
		return lower(h.name)
	}
	return lower(h.name + "." + h.stack)
}
