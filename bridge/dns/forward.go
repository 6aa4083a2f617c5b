package dns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// EndpointAddr is where an endpoint's resolv.conf finds its server.
const EndpointAddr = "127.0.0.11"

// Limits bounds what a Forwarder and the Servers use. A zero field takes its default.
type Limits struct {
	Forwards      int // questions under way to upstreams, of all askers; 1,024
	AskerForwards int // waiting for them, of one asker; 256
	Sockets       int // open to upstreams; 2,048
	AskerConns    int // TCP connections of one asker; 128
	CacheBytes    int // 8 MiB
}

func (l Limits) orDefault() Limits {
	set := func(n *int, value int) {
		if *n <= 0 {
			*n = value
		}
	}
	set(&l.Forwards, 1024)
	set(&l.AskerForwards, 256)
	set(&l.Sockets, 2048)
	set(&l.AskerConns, 128)
	set(&l.CacheBytes, 8<<20)
	return l
}

// ForwarderConfig is what a Forwarder needs.
type ForwarderConfig struct {
	Dialer Dialer // opens what goes to the upstreams, in their namespace
	// Own is where we listen ourselves, as far as Dialer reaches it, and never an upstream.
	// nil: EndpointAddr. A host that is a container of Docker has its real resolver at that
	// very address, and says so by an empty list.
	Own    []netip.AddrPort
	Limits Limits
}

// Forwarder asks the host's resolvers. All askers of a node share one.
type Forwarder struct {
	dialer Dialer
	own    []netip.AddrPort
	limits Limits
	mark   mark
	count  *counters
	cache  *cache
	set    atomic.Pointer[[]*upstream]

	ctx     context.Context // of the forwarder: a question outlives who asked it first, since others may have joined
	cancel  context.CancelFunc
	work    sync.WaitGroup
	sockets chan struct{}

	mu      sync.Mutex
	closed  bool
	flights map[flightKey]*flight
}

// flightKey keeps what was asked of other upstreams apart.
type flightKey struct {
	lookup
	epoch int
}

// flight is one question under way.
type flight struct {
	done chan struct{}
	wire []byte // of the answer; each who waits reads it for itself. Set before done is closed
	res  result // without msg
}

const (
	stagger  = 150 * time.Millisecond // then the next upstream is asked too
	patience = 4 * time.Second        // for one question; a client of glibc gives up at five
	// staleWait is how long somebody waits for upstreams while there is a stale answer
	// (RFC 8767 5: the client response timer).
	staleWait = 1800 * time.Millisecond
)

// NewForwarder makes a forwarder without upstreams. Close it.
func NewForwarder(cfg ForwarderConfig) *Forwarder {
	f := &Forwarder{
		dialer: cfg.Dialer, own: cfg.Own, limits: cfg.Limits.orDefault(),
		mark: newMark(), count: &counters{}, flights: map[flightKey]*flight{},
	}
	if f.own == nil {
		f.own = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(EndpointAddr), 53)}
	}
	f.cache = newCache(f.limits.CacheBytes)
	f.sockets = make(chan struct{}, f.limits.Sockets)
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.set.Store(&[]*upstream{})
	return f
}

// Close ends what is under way and waits for it. Later questions fail.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.work.Wait()
}

// SetUpstreams replaces the resolvers that are asked, in order of preference, and returns those
// that it left out because they are ourselves. What is cached becomes stale if the list is
// another: a different resolver may answer differently. Of more than eight the rest is ignored.
func (f *Forwarder) SetUpstreams(addrs []netip.AddrPort) (ourselves []netip.AddrPort) {
	before := *f.set.Load()
	var next []*upstream
	for _, addr := range addrs {
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		if slices.Contains(f.own, addr) {
			ourselves = append(ourselves, addr)
			continue
		}
		at := func(u *upstream) bool { return u.addr == addr }
		if !addr.IsValid() || len(next) == maxUpstreams || slices.ContainsFunc(next, at) {
			continue
		}
		if i := slices.IndexFunc(before, at); i >= 0 {
			next = append(next, before[i]) // with what is known of it
			continue
		}
		next = append(next, &upstream{addr: addr})
	}
	if slices.Equal(before, next) {
		return ourselves
	}
	f.set.Store(&next)
	f.cache.turn()
	return ourselves
}

// looped says whether a question is one that we sent ourselves. Whom we sent it to is asked
// last from now on.
func (f *Forwarder) looped(opt *dns.OPT) bool {
	addr, ok := f.mark.upstream(opt)
	if !ok {
		return false
	}
	for _, u := range *f.set.Load() {
		if u.addr.Port() == addr.Port() && u.addr.Addr().WithZone("") == addr.Addr() {
			u.shun(time.Now())
		}
	}
	return true
}

// ask returns what the upstreams say, or what is known in their stead. It ends with ctx at the
// latest.
func (f *Forwarder) ask(ctx context.Context, k lookup) result {
	old, known := f.cache.get(k, time.Now())
	if known && (old.quiet || !old.stale) {
		if old.stale {
			f.count.stale.Add(1)
		}
		return old
	}
	fl, failure := f.join(k)
	var timer <-chan time.Time
	if known {
		timer = time.After(staleWait)
	}
	if fl != nil {
		select {
		case <-fl.done:
			failure = fl.res
			if fl.wire == nil {
				break
			}
			msg := &dns.Msg{}
			if err := msg.Unpack(fl.wire); err == nil {
				return result{msg: msg}
			}
		case <-timer:
		case <-ctx.Done():
			failure = result{code: edeOther, text: "the server ends"}
		}
	}
	if known {
		f.count.stale.Add(1)
		return old
	}
	return failure
}

// join returns the flight for k, which may be under way already. Without one there is a failure.
func (f *Forwarder) join(k lookup) (*flight, result) {
	key := flightKey{k, f.cache.now()}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.flights[key]; ok {
		f.count.joined.Add(1)
		return fl, result{}
	}
	if f.closed {
		return nil, result{code: edeOther, text: "the server ends"}
	}
	if len(f.flights) >= f.limits.Forwards {
		f.count.overloaded.Add(1)
		return nil, result{code: edeOther, text: "too many questions under way"}
	}
	fl := &flight{done: make(chan struct{})}
	f.flights[key] = fl
	f.count.forwarded.Add(1)
	f.work.Go(func() { f.fly(key, fl) })
	return fl, result{}
}

func (f *Forwarder) fly(key flightKey, fl *flight) {
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	var err error
	func() {
		defer f.count.caught()
		var msg *dns.Msg
		if msg, err = f.race(ctx, key.lookup); err != nil {
			return
		}
		clean(msg)
		if fl.wire, err = msg.Pack(); err == nil {
			f.cache.put(key.lookup, msg, key.epoch, time.Now())
		}
	}()
	if err == nil && fl.wire == nil {
		err = errPanic
	}
	if err != nil {
		f.count.failed.Add(1)
		fl.res = result{code: edeNetworkError, text: reason(err)}
		f.cache.fail(key.lookup, fl.res, key.epoch, time.Now())
	}
	f.mu.Lock()
	delete(f.flights, key)
	f.mu.Unlock()
	close(fl.done)
}

// clean leaves of an answer what concerns more than this hop.
func clean(msg *dns.Msg) {
	msg.Extra = slices.DeleteFunc(msg.Extra, func(rr dns.RR) bool {
		return isOPT(rr) || rr.Header().Rrtype == dns.TypeTSIG
	})
	msg.Compress = true
}

// reason is for the asker, who learns no address of the host's network by it.
func reason(err error) string {
	switch {
	case errors.Is(err, errNoUpstream):
		return errNoUpstream.Error()
	case errors.Is(err, errServer):
		return errServer.Error()
	default:
		return "no upstream resolver answers"
	}
}
