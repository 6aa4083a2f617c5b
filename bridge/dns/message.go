package dns

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// ourUDPSize is what we let others send in one datagram; the DNS flag day's number, which
	// crosses every path without fragments.
	ourUDPSize = 1232
	// askerUDPSize is the most that an asker gets in one datagram, whatever it offers. Between
	// us and an endpoint there is only the loopback device.
	askerUDPSize = 4096
)

// Extended errors (RFC 8914) that tell a person with dig why.
const (
	edeStale        = dns.ExtendedErrorCodeStaleAnswer
	edeProhibited   = dns.ExtendedErrorCodeProhibited
	edeNetworkError = dns.ExtendedErrorCodeNetworkError
	edeOther        = dns.ExtendedErrorCodeOther
)

// query is a message that asks one question of class IN.
type query struct {
	msg      *dns.Msg
	question dns.Question
	opt      *dns.OPT // nil: the asker knows no EDNS
}

// parse reads a message. Where that fails rejected is the answer to send, or nil where there
// must be none: an answer to an answer is how two servers talk for ever.
func parse(wire []byte) (q *query, rejected *dns.Msg) {
	if len(wire) < headerSize || wire[2]&0x80 != 0 {
		return nil, nil
	}
	head := &dns.Msg{}
	head.Id = binary.BigEndian.Uint16(wire)
	head.Response = true
	head.Opcode = int(wire[2]>>3) & 0xf
	head.RecursionDesired = wire[2]&1 != 0
	if head.Opcode != dns.OpcodeQuery {
		head.Rcode = dns.RcodeNotImplemented
		return nil, head
	}
	head.Rcode = dns.RcodeFormatError
	if binary.BigEndian.Uint16(wire[4:]) != 1 { // RFC 9619
		return nil, head
	}
	msg := &dns.Msg{}
	if err := msg.Unpack(wire); err != nil || !honest(wire, msg) {
		return nil, head
	}
	q = &query{msg: msg, question: msg.Question[0]}
	opts := 0
	for _, rr := range msg.Extra {
		if opt, ok := rr.(*dns.OPT); ok {
			q.opt = opt
			opts++
		}
	}
	if opts > 1 || opts == 1 && q.opt.Hdr.Name != "." { // RFC 6891 6.1.1
		return nil, head
	}
	return q, nil
}

// honest says whether a message has the records that its header counts; the codec takes less
// for an end.
func honest(wire []byte, msg *dns.Msg) bool {
	for i, n := range []int{len(msg.Question), len(msg.Answer), len(msg.Ns), len(msg.Extra)} {
		if int(binary.BigEndian.Uint16(wire[4+2*i:])) != n {
			return false
		}
	}
	return true
}

// reply is an empty answer to q.
func (q *query) reply(rcode int) *dns.Msg {
	m := &dns.Msg{}
	m.Id = q.msg.Id
	m.Response = true
	m.RecursionDesired = q.msg.RecursionDesired
	m.RecursionAvailable = true
	m.CheckingDisabled = q.msg.CheckingDisabled
	m.Rcode = rcode
	m.Question = []dns.Question{q.question}
	m.Compress = true
	if q.opt != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(ourUDPSize)
		if q.opt.Do() {
			opt.SetDo()
		}
		m.Extra = []dns.RR{opt}
	}
	return m
}

// because adds an extended error to a reply, where the asker knows EDNS.
func (q *query) because(m *dns.Msg, code uint16, text string) *dns.Msg {
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
	return m
}

// refusal answers what is malformed in meaning, or asks for what is not served here; nil for an
// ordinary question.
func (q *query) refusal() *dns.Msg {
	switch {
	case q.opt != nil && q.opt.Version() != 0:
		return q.reply(dns.RcodeBadVers)
	case q.question.Qclass != dns.ClassINET: // CH version.bind and the like
		return q.reply(dns.RcodeRefused)
	case q.question.Qtype == dns.TypeNone || q.question.Qtype == dns.TypeOPT:
		return q.reply(dns.RcodeFormatError)
	case q.question.Qtype >= dns.TypeTKEY && q.question.Qtype <= dns.TypeMAILA: // transfers and transactions
		return q.reply(dns.RcodeRefused)
	case q.question.Qtype == dns.TypeANY: // RFC 8482: the cheapest honest answer, which amplifies nothing
		m := q.reply(dns.RcodeSuccess)
		m.Answer = []dns.RR{&dns.HINFO{
			Hdr: dns.RR_Header{Name: q.question.Name, Rrtype: dns.TypeHINFO, Class: dns.ClassINET, Ttl: 3600},
			Cpu: "RFC8482",
		}}
		return m
	}
	return nil
}

// room is how many bytes an answer by UDP may have.
func (q *query) room() int {
	if q == nil || q.opt == nil {
		return dns.MinMsgSize
	}
	return int(min(max(q.opt.UDPSize(), dns.MinMsgSize), askerUDPSize))
}

// pack is m in at most size bytes: addresses that nobody asked for go first, then whole
// records, which sets TC.
func pack(m *dns.Msg, size int) ([]byte, error) {
	m.Compress = true
	if m.Len() > size && len(m.Answer) > 0 {
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return !isOPT(rr) })
	}
	m.Truncate(size)
	if size == dns.MaxMsgSize {
		m.Truncated = false // by TCP there is nowhere to ask for more: that much of a list has to do
	}
	m.Compress = true // Truncate turns it off where it is not needed; without it a message of 64 KiB may not fit
	return m.Pack()
}
