package kernel

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	nfnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// taker is a rule of somebody else's that leads packets for some ports elsewhere.
type taker struct {
	family, table, chain string
	legacy               bool // of iptables' older half, which nft does not show
	four, six            bool
	addr                 netip.Addr // what is dialled; invalid: any, or it was not understood
	spans                []span
}

// span are ports of one protocol.
type span struct {
	protocol    uint8 // 0: any
	first, last uint16
}

// takes tells whether a packet for p could be the rule's. What of a rule is not
// understood (devices, sources, parts of addresses) counts as met.
func (t taker) takes(p Port) bool {
	if p.Addr.IsValid() && (p.Addr.Is4() && !t.four || p.Addr.Is6() && !t.six || t.addr.IsValid() && t.addr != p.Addr) {
		return false
	}
	protocol, err := encodeProto(p.Proto)
	return err == nil && slices.ContainsFunc(t.spans, func(s span) bool {
		return (s.protocol == 0 || s.protocol == protocol[0]) && s.first <= p.Number && p.Number <= s.last
	})
}

// String names the rule: "Docker's rule in table ip nat chain DOCKER".
func (t taker) String() string {
	whose := "a rule"
	if strings.HasPrefix(t.chain, "DOCKER") || strings.HasPrefix(t.table, "docker") {
		whose = "Docker's rule"
	}
	where := fmt.Sprintf("%s in table %s %s chain %s", whose, t.family, t.table, t.chain)
	if t.legacy {
		where += " of iptables-legacy"
	}
	return where
}

// hostTakers are the takers among all rules of the host that are not ours.
func (k *Kernel) hostTakers() ([]taker, error) {
	look := k.lookAtHost()
	defer look.nft.close()
	legacy, err := look.legacyTakers()
	if err != nil {
		return nil, err
	}
	unknown := func(uint32) ([]taker, bool) { return nil, false }
	takers, _, err := atOneGeneration(look, unknown, look.readTakers) // a set may be gone whose rule was read
	if err != nil {
		return nil, fmt.Errorf("list rules of others: %w", err)
	}
	return append(takers, legacy...), nil
}

func (n *namespace) readTakers() ([]taker, error) {
	reply, err := n.askNFT(unix.NFT_MSG_GETRULE, nftables.TableFamilyUnspecified, nfnetlink.Dump, nil)
	if err != nil {
		return nil, err
	}
	var takers []taker
	for _, m := range reply {
		t, err := n.decodeTaker(m)
		if err != nil {
			return nil, err
		}
		if t != nil {
			takers = append(takers, *t)
		}
	}
	return takers, nil
}

// decodeTaker reads one rule; nil where it is ours, or takes nothing.
func (n *namespace) decodeTaker(m nfnetlink.Message) (*taker, error) {
	ad, err := attributes(m)
	if err != nil {
		return nil, err
	}
	family := nftables.TableFamily(m.Data[0])
	r := rule{
		taker: taker{family: familyName(family), four: family != nftables.TableFamilyIPv6, six: family != nftables.TableFamilyIPv4},
		loads: map[int]load{},
	}
	if r.family == "" || r.family == "netdev" {
		return nil, nil // no NAT there
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			r.table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			r.chain = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(r.expressions)
		}
	}
	if err := ad.Err(); err != nil || r.table == plan.TableName || !r.leads {
		return nil, err
	}
	for _, l := range r.lookups {
		spans, err := n.spansIn(family, r.table, l)
		if err != nil {
			return nil, err
		}
		r.spans = append(r.spans, spans...)
	}
	if r.spans == nil && r.bound {
		r.spans = []span{{r.protocol, r.low, r.high}}
	}
	for i := range r.spans {
		r.spans[i].protocol = cmp.Or(r.spans[i].protocol, r.protocol)
	}
	return &r.taker, nil
}

// spansIn are the ports in the keys of a set.
func (n *namespace) spansIn(family nftables.TableFamily, table string, l lookup) ([]span, error) {
	conn, err := n.nftConn()
	if err != nil {
		return nil, err
	}
	elements, err := conn.GetSetElements(&nftables.Set{Table: &nftables.Table{Name: table, Family: family}, Name: l.set})
	if err != nil {
		return nil, fmt.Errorf("read set %s of table %s: %w", l.set, table, err)
	}
	// An interval is two elements, its first and the one behind its last.
	slices.SortStableFunc(elements, compareElements)
	var spans []span
	for _, e := range elements {
		if len(e.Key) < l.port+2 {
			continue
		}
		port := binary.BigEndian.Uint16(e.Key[l.port:])
		if e.IntervalEnd {
			if len(spans) > 0 {
				spans[len(spans)-1].last = port - 1
			}
			continue
		}
		s := span{first: port, last: port}
		if len(e.KeyEnd) >= l.port+2 {
			s.last = binary.BigEndian.Uint16(e.KeyEnd[l.port:])
		}
		if l.protocol >= 0 && l.protocol < len(e.Key) {
			s.protocol = e.Key[l.protocol]
		}
		spans = append(spans, s)
	}
	return spans, nil
}

// compareElements puts the end of one interval before the beginning of the next.
func compareElements(a, b nftables.SetElement) int {
	switch order := bytes.Compare(a.Key, b.Key); {
	case order != 0 || a.IntervalEnd == b.IntervalEnd:
		return order
	case a.IntervalEnd:
		return -1
	default:
		return 1
	}
}

// rule is what is known of a rule while its expressions are read one by one.
type rule struct {
	taker
	loads     map[int]load // what each register holds, by its offset in bytes
	protocol  uint8        // 0: any
	bound     bool         // the port is limited
	low, high uint16
	lookups   []lookup
	leads     bool // the rule leads packets elsewhere
}

// load is what a register was loaded with, where that counts here.
type load string

const (
	loadOther    load = ""
	loadPort     load = "port"
	loadProtocol load = "protocol"
	loadAddr     load = "address"
)

// lookup is a set that the port must be in, and where in its keys port and protocol are.
type lookup struct {
	set            string
	port, protocol int // protocol is -1 where it is not in them
}

func (r *rule) expressions(list *nfnetlink.AttributeDecoder) error {
	for list.Next() {
		list.Nested(func(e *nfnetlink.AttributeDecoder) error {
			var name string
			var data []byte
			for e.Next() {
				switch e.Type() {
				case unix.NFTA_EXPR_NAME:
					name = e.String()
				case unix.NFTA_EXPR_DATA:
					data = e.Bytes()
				}
			}
			return r.expression(name, data)
		})
	}
	return nil
}

func (r *rule) expression(name string, data []byte) error {
	attrs, err := expressionOf(data)
	if err != nil {
		return err
	}
	switch name {
	case "meta":
		what := map[uint32]load{unix.NFT_META_L4PROTO: loadProtocol}[attrs.number(unix.NFTA_META_KEY)]
		r.load(attrs, unix.NFTA_META_DREG, what)
	case "payload":
		r.payload(attrs)
	case "bitwise":
		r.load(attrs, unix.NFTA_BITWISE_DREG, loadOther) // no longer the field itself
	case "byteorder":
		r.load(attrs, unix.NFTA_BYTEORDER_DREG, loadOther)
	case "cmp":
		r.compare(attrs)
	case "range":
		r.within(attrs)
	case "lookup":
		r.lookUp(attrs)
	case "match":
		r.match(attrs)
	case "nat":
		r.leads = r.leads || attrs.number(unix.NFTA_NAT_TYPE) == unix.NFT_NAT_DNAT
	case "redir", "tproxy":
		r.leads = true
	case "target":
		target := text(attrs[unix.NFTA_TARGET_NAME])
		r.leads = r.leads || target == "DNAT" || target == "REDIRECT" || target == "TPROXY"
	}
	return nil
}

// expression is the attributes of one, by their types.
type expression map[uint16][]byte

func expressionOf(data []byte) (expression, error) {
	ad, err := nfnetlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	attrs := expression{}
	for ad.Next() {
		attrs[ad.Type()] = ad.Bytes()
	}
	return attrs, ad.Err()
}

// number is 0 where there is no such attribute.
func (e expression) number(kind uint16) uint32 {
	if b := e[kind]; len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// value is a nested NFTA_DATA_VALUE.
func (e expression) value(kind uint16) []byte {
	b, _ := attribute(e[kind], 0, unix.NFTA_DATA_VALUE)
	return b
}

// register is a register's offset in bytes: there are 4 of 16 bytes, or, the same
// memory, 16 of 4.
func (e expression) register(kind uint16) int {
	n := int(e.number(kind))
	if n >= unix.NFT_REG32_00 {
		return (n - unix.NFT_REG32_00) * register
	}
	return (n - unix.NFT_REG_1) * 4 * register
}

func (r *rule) load(e expression, register uint16, what load) {
	if _, ok := e[register]; ok { // otherwise it only sets something
		r.loads[e.register(register)] = what
	}
}

func (r *rule) payload(e expression) {
	base, offset, size := e.number(unix.NFTA_PAYLOAD_BASE), e.number(unix.NFTA_PAYLOAD_OFFSET), e.number(unix.NFTA_PAYLOAD_LEN)
	type field struct{ base, offset, size uint32 }
	what := map[field]load{
		{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}: loadPort,
		{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}:   loadProtocol, // IPv4
		{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:   loadProtocol, // IPv6
		{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}:  loadAddr,
		{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}: loadAddr,
	}[field{base, offset, size}]
	r.load(e, unix.NFTA_PAYLOAD_DREG, what)
}

func (r *rule) compare(e expression) {
	value, op := e.value(unix.NFTA_CMP_DATA), e.number(unix.NFTA_CMP_OP)
	switch what := r.loads[e.register(unix.NFTA_CMP_SREG)]; {
	case what == loadProtocol && op == unix.NFT_CMP_EQ && len(value) == 1:
		r.protocol = value[0]
	case what == loadAddr && op == unix.NFT_CMP_EQ:
		if addr, ok := netip.AddrFromSlice(value); ok {
			r.addr = addr
		}
	case what == loadPort && len(value) == 2:
		port := binary.BigEndian.Uint16(value)
		switch op {
		case unix.NFT_CMP_EQ:
			r.limit(port, port)
		case unix.NFT_CMP_GTE:
			r.limit(port, 65535)
		case unix.NFT_CMP_LTE:
			r.limit(0, port)
		}
	}
}

// limit leaves of the ports those from first to last.
func (r *rule) limit(first, last uint16) {
	if first == 0 && last == 65535 {
		return
	}
	if !r.bound {
		r.bound, r.low, r.high = true, 0, 65535
	}
	r.low, r.high = max(r.low, first), min(r.high, last)
}

func (r *rule) within(e expression) {
	from, to := e.value(unix.NFTA_RANGE_FROM_DATA), e.value(unix.NFTA_RANGE_TO_DATA)
	if r.loads[e.register(unix.NFTA_RANGE_SREG)] == loadPort && e.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_EQ && len(from) == 2 && len(to) == 2 {
		r.limit(binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to))
	}
}

// lookUp notes a set whose keys hold the port. A key of several fields is as many
// registers, one behind the other.
func (r *rule) lookUp(e expression) {
	if e.number(unix.NFTA_LOOKUP_FLAGS) != 0 {
		return // "not in"
	}
	l := lookup{set: text(e[unix.NFTA_LOOKUP_SET]), port: -1, protocol: -1}
	start := e.register(unix.NFTA_LOOKUP_SREG)
	for at, what := range r.loads {
		switch {
		case at < start:
		case what == loadPort:
			l.port = at - start
		case what == loadProtocol:
			l.protocol = at - start
		}
	}
	if l.port >= 0 {
		r.lookups = append(r.lookups, l)
	}
	r.load(e, unix.NFTA_LOOKUP_DREG, loadOther)
}

// match reads the ports of iptables' own matches, as nft carries them: struct xt_tcp
// and xt_udp begin with the source ports and the destination ports, in host order;
// xt_multiport_v1 has a kind, a count, 15 ports, which of them begin ranges, and whether
// it means all others.
func (r *rule) match(e expression) {
	info := e[unix.NFTA_MATCH_INFO]
	port := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	const (
		invertedTCP, invertedUDP, inverted = 11, 8, 47
		destination, either                = 1, 2
	)
	switch name := text(e[unix.NFTA_MATCH_NAME]); {
	case name == "tcp" && len(info) > invertedTCP && info[invertedTCP]&2 == 0,
		name == "udp" && len(info) > invertedUDP && info[invertedUDP]&2 == 0:
		r.limit(port(4), port(6))
	case name == "multiport" && len(info) > inverted && info[inverted] == 0 && (info[0] == destination || info[0] == either):
		for i := 0; i < min(int(info[1]), 15); i++ {
			s := span{first: port(2 + 2*i), last: port(2 + 2*i)}
			if info[32+i] != 0 && i < 14 {
				s.last = port(4 + 2*i)
				i++
			}
			r.spans = append(r.spans, s)
		}
	}
}
