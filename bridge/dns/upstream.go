package dns

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// shunned is how long an upstream that was late or unreachable is asked after the others,
	// but for one question, which looks whether it is back.
	shunned = 10 * time.Second
	// maxUpstreams bounds a list. A resolv.conf of glibc has three.
	maxUpstreams = 8
)

// upstream is one of the host's resolvers.
type upstream struct {
	addr  netip.AddrPort
	until atomic.Int64 // in the good order 0, otherwise when to look again: Unix nanoseconds
}

// attempt is one upstream's turn in a round.
type attempt struct {
	up    *upstream
	delay time.Duration // after the one before
}

func (u *upstream) shun(now time.Time) { u.until.Store(now.Add(shunned).UnixNano()) }

func (u *upstream) welcome() { u.until.Store(0) }

// order says who is asked when: first those that answer, in the order of the list; the others
// wait at the end. One of those whose time is over is asked beside the first, by one question
// only: that one loses nothing if it is still dead, and all the others need not find out.
func order(ups []*upstream, stagger time.Duration, now time.Time) []attempt {
	var good, bad []attempt
	var probe *upstream
	for _, u := range ups {
		until := u.until.Load()
		switch {
		case until == 0:
			good = append(good, attempt{u, stagger})
		case probe == nil && now.UnixNano() >= until && u.until.CompareAndSwap(until, now.Add(shunned).UnixNano()):
			probe = u
		default:
			bad = append(bad, attempt{u, stagger})
		}
	}
	out := append(good, bad...)
	if probe != nil {
		out = slices.Insert(out, min(1, len(out)), attempt{probe, 0})
	}
	return out
}

// looping is the EDNS option, from the range for local use (RFC 6891 9), by which a question
// that comes back is known. Only upstreams nearby get it: none of the others can ask us.
const looping = 65413

// mark makes one process's questions known to itself and to nobody else.
type mark [8]byte

func newMark() mark {
	var m mark
	rand.Read(m[:]) // never fails
	return m
}

func (m mark) option(u *upstream) *dns.EDNS0_LOCAL {
	port := binary.BigEndian.AppendUint16(m[:], u.addr.Port())
	return &dns.EDNS0_LOCAL{Code: looping, Data: append(port, u.addr.Addr().AsSlice()...)}
}

// upstream reads whom a question was sent to by us; false where it is none of ours.
func (m mark) upstream(opt *dns.OPT) (netip.AddrPort, bool) {
	if opt == nil {
		return netip.AddrPort{}, false
	}
	for _, o := range opt.Option {
		local, ok := o.(*dns.EDNS0_LOCAL)
		if !ok || local.Code != looping || len(local.Data) < len(m)+2 || mark(local.Data[:len(m)]) != m {
			continue
		}
		rest := local.Data[len(m):]
		ip, _ := netip.AddrFromSlice(rest[2:])
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(rest)), true
	}
	return netip.AddrPort{}, false
}

// near says whether an upstream may be a forwarder that asks us.
func near(ip netip.Addr) bool {
	shared := netip.MustParsePrefix("100.64.0.0/10")
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || shared.Contains(ip)
}
