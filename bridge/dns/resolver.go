package dns

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Resolver answers the questions of all askers of a node. Its methods may be called from any
// goroutine.
type Resolver struct {
	zone    atomic.Pointer[Zone]
	forward *Forwarder
	count   *counters
}

// NewResolver makes a resolver with no names. The forwarder stays the caller's to close.
func NewResolver(f *Forwarder) *Resolver {
	r := &Resolver{forward: f, count: f.count}
	r.SetZone(NewZone(Names{}))
	return r
}

// SetZone replaces all names at once.
func (r *Resolver) SetZone(z *Zone) { r.zone.Store(z) }

// Counts reads the counters of r and of its forwarder.
func (r *Resolver) Counts() Counts { return r.count.read() }

// later is an answer that has to wait for an upstream.
type later func(ctx context.Context) *dns.Msg

// answer gives the answer that needs nobody else, or how to get it; neither where the message
// must not be answered.
func (r *Resolver) answer(a *Asker, wire []byte) (q *query, m *dns.Msg, wait later) {
	q, rejected := parse(wire)
	switch {
	case q == nil && rejected == nil:
		r.count.dropped.Add(1)
		return nil, nil, nil
	case q == nil:
		r.count.malformed.Add(1)
		return nil, rejected, nil
	}
	r.count.queries.Add(1)
	if m := q.refusal(); m != nil {
		r.count.refused.Add(1)
		return q, m, nil
	}
	zone := r.zone.Load()
	if m := r.local(zone, a, q); m != nil {
		r.count.local.Add(1)
		return q, m, nil
	}
	if m := r.policy(zone, a, q); m != nil {
		r.count.refused.Add(1)
		return q, m, nil
	}
	m, wait = r.outside(q)
	return q, m, wait
}

// local answers from the zone; nil where it is not ours to answer.
func (r *Resolver) local(zone *Zone, a *Asker, q *query) *dns.Msg {
	found := zone.Lookup(a, q.question, rand.Uint32())
	if found.Kind == NotOurs {
		short := !strings.Contains(strings.TrimSuffix(q.question.Name, "."), ".")
		if a.KeepShort && short && (q.question.Qtype == dns.TypeA || q.question.Qtype == dns.TypeAAAA) {
			return q.reply(dns.RcodeSuccess)
		}
		return nil
	}
	m := q.reply(dns.RcodeSuccess)
	m.Authoritative = true
	// A negative answer carries no SOA, so that no client keeps it (RFC 2308 5): a name that
	// appears is seen at once.
	if found.Kind == NoName {
		m.Rcode = dns.RcodeNameError
	}
	m.Answer = found.Records
	m.Extra = append(found.Extra, m.Extra...)
	return m
}

// policy refuses what must not leave the node.
func (r *Resolver) policy(zone *Zone, a *Asker, q *query) *dns.Msg {
	switch {
	case a.LocalOnly:
		return q.because(q.reply(dns.RcodeRefused), edeProhibited, "only names of the cluster are answered here")
	case !zone.MayForward(a):
		// SERVFAIL, as Docker says it: NXDOMAIN would claim to know that the name does not
		// exist, and clients and their caches would believe it after the endpoint has got a
		// network with a way out. Clients go on to the next name of their search list all the
		// same.
		return q.because(q.reply(dns.RcodeServerFailure), edeProhibited, "the endpoint is on internal networks only")
	case !q.msg.RecursionDesired:
		// To answer from the cache alone would tell one endpoint what another has looked up.
		return q.because(q.reply(dns.RcodeRefused), edeProhibited, "not a name of the cluster, and no recursion was asked for")
	}
	return nil
}

// outside answers from the cache, or says how to ask an upstream.
func (r *Resolver) outside(q *query) (*dns.Msg, later) {
	if r.forward.looped(q.opt) {
		r.count.loops.Add(1)
		return q.because(q.reply(dns.RcodeServerFailure), edeOther, "an upstream resolver asks us in turn"), nil
	}
	k := keyOf(q)
	if res, ok := r.forward.cache.get(k, time.Now()); ok && !res.stale {
		r.count.cached.Add(1)
		return q.from(res), nil
	}
	return nil, func(ctx context.Context) *dns.Msg { return q.from(r.forward.ask(ctx, k)) }
}

// busy is the answer where too much is under way already.
func (r *Resolver) busy(q *query) *dns.Msg {
	r.count.overloaded.Add(1)
	return q.because(q.reply(dns.RcodeServerFailure), edeOther, "too many questions under way")
}

// from makes the answer out of what came from outside.
func (q *query) from(res result) *dns.Msg {
	if res.msg == nil {
		return q.because(q.reply(dns.RcodeServerFailure), res.code, res.text)
	}
	m := q.reply(res.msg.Rcode)
	m.Answer, m.Ns = res.msg.Answer, res.msg.Ns
	m.Extra = append(res.msg.Extra, m.Extra...)
	// AD only for who shows that it would understand (RFC 6840 5.7).
	m.AuthenticatedData = res.msg.AuthenticatedData && (q.msg.AuthenticatedData || q.opt != nil && q.opt.Do())
	for _, rr := range m.Answer {
		if h := rr.Header(); len(h.Name) == len(q.question.Name) && strings.EqualFold(h.Name, q.question.Name) {
			h.Name = q.question.Name
		}
	}
	if res.stale {
		return q.because(m, edeStale, "")
	}
	return m
}
