// Package load is steady traffic: so many requests a second whatever becomes of
// them, each checked for who answered and whom it saw, and all of them kept.
//
//	test --Spec--> process in the client's namespace --Request, one by one--> test --> Tally
//
// It is a process of its own, since a program that has its sockets in many
// namespaces at once changes threads for each of them, and that is slow.
package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// Spec is what is asked.
type Spec struct {
	Targets []Target      // asked in turn
	Rate    int           // requests a second, over all targets
	Wait    time.Duration // for the answer; and for the connection before that
}

// Target is one address to ask, and what is right there.
type Target struct {
	Name    string
	Network string // tcp or udp
	Flow    Flow
	Addr    netip.AddrPort
	By      []string   // who may answer
	Sees    netip.Addr // whom they must see
}

// Flow tells whether requests share a connection, or a UDP socket.
type Flow string

// The two ways to ask.
const (
	Fresh Flow = "new"
	Kept  Flow = "kept"
)

// Request is one that has ended.
type Request struct {
	Target int       // its place in Spec.Targets
	Began  time.Time // wall clock
	Took   time.Duration
	Why    string // it failed; "" where it did not
}

// mostAtOnce bounds the requests under way: where nothing answers, that many wait.
func (s Spec) mostAtOnce() int { return 2*int(float64(s.Rate)*s.Wait.Seconds()) + 16 }

// generator sends the requests of a Spec.
type generator struct {
	Spec
	client probe.Client
	report func(Request) // called by many goroutines
	slots  chan struct{} // one token for each request under way
	group  sync.WaitGroup

	mu   sync.Mutex
	idle map[int][]*probe.Flow // by target
}

// generate sends requests until stop is closed, and waits for the last one's end.
// A request that there is no room for is reported as a failure: none is left out.
func generate(s Spec, stop <-chan struct{}, report func(Request)) {
	g := &generator{
		Spec: s, client: probe.Client{Place: probe.Here{}, Wait: s.Wait}, report: report,
		slots: make(chan struct{}, s.mostAtOnce()), idle: map[int][]*probe.Flow{},
	}
	tick := time.NewTicker(min(time.Second/time.Duration(s.Rate), 2*time.Millisecond))
	defer tick.Stop()
	began := time.Now()
	for sent := 0; ; {
		select {
		case <-stop:
			g.group.Wait()
			g.close()
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(s.Rate)); sent < due; sent++ {
			g.send(sent % len(s.Targets))
		}
	}
}

func (g *generator) send(target int) {
	began := time.Now()
	select {
	case g.slots <- struct{}{}:
	default:
		g.report(Request{Target: target, Began: began, Why: "too many requests wait for an answer"})
		return
	}
	g.group.Go(func() {
		defer func() { <-g.slots }()
		r := Request{Target: target, Began: began}
		if err := g.ask(target); err != nil {
			r.Why = probe.Outcome(err)
		}
		r.Took = time.Since(began)
		g.report(r)
	})
}

// ask sends one request, on a flow of its own or one that is idle.
func (g *generator) ask(target int) error {
	t := g.Targets[target]
	conn := g.take(target)
	if conn == nil {
		var err error
		if conn, err = g.client.Open(t.Network, t.Addr); err != nil {
			return err
		}
	}
	answer, err := conn.Ask()
	if err == nil {
		err = t.check(answer)
	}
	if err == nil && t.Flow == Kept {
		g.put(target, conn)
		return nil
	}
	return errors.Join(err, conn.Close())
}

func (t Target) check(a probe.Answer) error {
	if !slices.Contains(t.By, a.Name) || a.Source.Addr() != t.Sees {
		return fmt.Errorf("%s sees %s, want one of %v to see %s", a.Name, a.Source.Addr(), t.By, t.Sees)
	}
	return nil
}

func (g *generator) take(target int) *probe.Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := g.idle[target]
	if len(list) == 0 {
		return nil
	}
	last := list[len(list)-1]
	g.idle[target] = list[:len(list)-1]
	return last
}

func (g *generator) put(target int, c *probe.Flow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle[target] = append(g.idle[target], c)
}

func (g *generator) close() {
	for _, list := range g.idle {
		for _, c := range list {
			_ = c.Close() // nothing is to come on it
		}
	}
}
