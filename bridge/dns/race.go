package dns

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
)

var (
	errNoUpstream = errors.New("the host has no upstream resolver")
	errServer     = errors.New("every upstream resolver failed to resolve it")
	errPanic      = errors.New("the message made us fail")
	errSockets    = errors.New("too many sockets are open")
)

// race asks the upstreams until one answers, at most twice: a lost packet must not cost the
// answer where there is only one upstream.
func (f *Forwarder) race(ctx context.Context, k lookup) (*dns.Msg, error) {
	var err error
	for range 2 {
		attempts := order(*f.set.Load(), stagger, time.Now()) // anew, since the list may have been replaced
		if len(attempts) == 0 {
			return nil, errNoUpstream
		}
		var msg *dns.Msg
		msg, err = f.round(ctx, k, attempts)
		if err == nil || !silent(err) || ctx.Err() != nil {
			return msg, err
		}
	}
	return nil, err
}

// silent says whether an error came by waiting: whoever refuses does so again at once.
func silent(err error) bool {
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout()
}

// outcome is what one attempt brought.
type outcome struct {
	up  *upstream
	msg *dns.Msg
	err error
}

// round asks each upstream once: the next when the one before fails or has taken its time.
func (f *Forwarder) round(ctx context.Context, k lookup, attempts []attempt) (*dns.Msg, error) {
	outcomes := make(chan outcome, len(attempts))
	waiting := map[*upstream]time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for next := 0; ; {
		var due <-chan time.Time
		if next < len(attempts) {
			due = timer.C
		} else if len(waiting) == 0 {
			return nil, errors.Join(errs...)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		case <-due:
			up := attempts[next].up
			waiting[up] = time.Now()
			f.try(up, k, outcomes)
			if next++; next < len(attempts) {
				timer.Reset(attempts[next].delay)
			}
		case o := <-outcomes:
			delete(waiting, o.up)
			if o.err == nil {
				late(waiting)
				return o.msg, nil
			}
			errs = append(errs, o.err)
			timer.Reset(0)
		}
	}
}

// late shuns those that had their time before another answered.
func late(waiting map[*upstream]time.Time) {
	for up, since := range waiting {
		if time.Since(since) >= stagger {
			up.shun(time.Now())
		}
	}
}

// try asks one upstream and says how it went, to outcomes and to the upstream's record. It goes
// on after another has won, so that a resolver that is back is noticed; that it does not hold
// sockets without bound is what the limit is for.
func (f *Forwarder) try(u *upstream, k lookup, outcomes chan<- outcome) {
	select {
	case f.sockets <- struct{}{}:
	default:
		outcomes <- outcome{up: u, err: errSockets}
		return
	}
	f.work.Go(func() {
		defer func() { <-f.sockets }()
		o, began := outcome{up: u}, time.Now()
		o.err = errPanic // unless exchange returns
		func() {
			defer f.count.caught()
			o.msg, o.err = f.exchange(f.ctx, u, k)
		}()
		switch {
		case o.err != nil && f.ctx.Err() == nil:
			u.shun(time.Now())
		case o.err != nil:
		case o.msg.Rcode != dns.RcodeSuccess && o.msg.Rcode != dns.RcodeNameError:
			// What a server says of one name is no reason to ask it last, nor to ask it first again.
			o.err = fmt.Errorf("%w: %s says %s", errServer, u.addr, dns.RcodeToString[o.msg.Rcode])
		case time.Since(began) < stagger:
			u.welcome()
		}
		outcomes <- o
	})
}
