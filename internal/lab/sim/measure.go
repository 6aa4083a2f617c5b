package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

// Case is one row of the table.
type Case struct {
	Seed    uint64
	Nodes   int
	Loss    float64
	Split   time.Duration // how long the halves are apart
	Changes int
}

// Row is what was measured, in virtual time.
type Row struct {
	Case
	Joined  time.Duration   // until all nodes of a new cluster agree and find each other alive
	Reach   []time.Duration // of one change to each other node, sorted
	Idle    Traffic         // of one node in a second
	Agree   time.Duration   // after the halves were joined: all hold the same
	Members time.Duration   // the same: all find each other alive
	Dead    []time.Duration // until each node has found a node without power dead, sorted
	False   int64           // how often a node was taken for dead that ran, and was not cut off
}

// Limits of what is waited for.
const (
	waitAgree = 2 * time.Minute
	waitReach = 30 * time.Second
	waitDead  = 30 * time.Second
	idleFor   = 20 * time.Second
)

// Measure makes one row. It is to be called in a synctest bubble.
func Measure(c Case) (row Row, err error) {
	deaths := new(atomic.Int64)
	w, err := NewWorld(Options{Seed: c.Seed, Nodes: c.Nodes, Log: slog.New(silences{deaths})})
	row.Case = c
	if err == nil {
		err = w.measure(&row, deaths)
	}
	return row, errors.Join(err, w.Close())
}

func (w *World) measure(row *Row, deaths *atomic.Int64) (err error) {
	d := digests{}
	whole := func() error { return errors.Join(w.Seen(), w.Agreed(d)) }
	if row.Joined, err = Within(waitAgree, 10*time.Millisecond, whole); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	w.rest()
	w.Net.SetWeather(Weather{Loss: row.Loss})
	time.Sleep(5 * time.Second)
	deaths.Store(0)
	before := w.Net.Traffic()
	time.Sleep(idleFor)
	row.Idle = w.Net.Traffic().perNode(before, len(w.Nodes), idleFor)
	if row.Reach, err = w.reach(row.Changes); err != nil {
		return err
	}
	row.False = deaths.Load()
	if row.Dead, err = w.dead(); err != nil {
		return err
	}
	return w.splitInHalves(row, d)
}

// Of what the joining left, each node gossips until its queue is empty, as much as it may send of it in
// that time: less than echoOfOne for each node that joined.
const (
	echoOfOne = 200 * time.Millisecond
	restStep  = 5 * time.Second
	restMost  = 24 // steps
)

// rest lets the joining's echo die away, and then what else there is, until what is sent grows less no more.
func (w *World) rest() {
	time.Sleep(time.Duration(len(w.Nodes)) * echoOfOne)
	was := uint64(math.MaxUint64)
	for range restMost {
		before := w.Net.Traffic()
		time.Sleep(restStep)
		sent := w.Net.Traffic().Packets - before.Packets
		if sent > was/20*19 && sent <= was {
			return
		}
		was = sent
	}
}

// reach measures how long changes take to each node.
func (w *World) reach(changes int) (took []time.Duration, err error) {
	for i := range changes {
		writer := w.Nodes[int(w.part(time.Duration(len(w.Nodes))))]
		id, err := writer.plane.Load().CreateService(fmt.Sprint("change", i), nil, nil)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		missing := slices.DeleteFunc(slices.Clone(w.Nodes), func(n *Node) bool { return n == writer })
		_, err = Within(waitReach, time.Millisecond, func() error {
			missing = slices.DeleteFunc(missing, func(n *Node) bool {
				has := n.plane.Load().Has(mesh.Key{Kind: mesh.KindService, ID: string(id)})
				if has {
					took = append(took, time.Since(began))
				}
				return has
			})
			if len(missing) > 0 {
				return fmt.Errorf("a change did not reach %d nodes", len(missing))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		time.Sleep(time.Second + w.part(time.Second)) // not in step with anything periodic
	}
	slices.Sort(took)
	return took, nil
}

// dead measures how long it takes each node to find out that one has no power, which it has again
// afterwards.
func (w *World) dead() (took []time.Duration, err error) {
	victim := w.Nodes[len(w.Nodes)-1]
	id := victim.plane.Load().ID()
	began := time.Now()
	victim.host.PowerOff()
	missing := slices.Clone(w.Nodes[:len(w.Nodes)-1])
	_, err = Within(waitDead, 5*time.Millisecond, func() error {
		missing = slices.DeleteFunc(missing, func(n *Node) bool {
			gone := !slices.Contains(n.plane.Load().Alive(), id)
			if gone {
				took = append(took, time.Since(began))
			}
			return gone
		})
		if len(missing) > 0 {
			return fmt.Errorf("%d nodes do not see that one is dead", len(missing))
		}
		return nil
	})
	slices.Sort(took)
	victim.host.PowerOn()
	return took, errors.Join(err, w.whole("a dead node came back"))
}

func (w *World) whole(when string) error {
	if _, err := Within(waitAgree, 100*time.Millisecond, w.Seen); err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	return nil
}

// splitInHalves cuts the network in two, writes on both sides, and measures how long it takes
// until nothing shows of it.
func (w *World) splitInHalves(row *Row, d digests) (err error) {
	for i, from := range w.Nodes {
		for j, to := range w.Nodes {
			if i%2 != j%2 {
				w.Net.Cut(from.at.Addr(), to.at.Addr())
			}
		}
	}
	time.Sleep(row.Split / 2)
	for i, n := range w.Nodes {
		if _, err := n.plane.Load().CreateService(fmt.Sprint("apart", i/2), nil, nil); err != nil {
			return err
		}
	}
	time.Sleep(row.Split / 2)
	w.Net.Mend()
	began := time.Now()
	if row.Agree, err = Within(waitAgree, 20*time.Millisecond, func() error { return w.Agreed(d) }); err != nil {
		return fmt.Errorf("after a split: %w", err)
	}
	_, err = Within(waitAgree, 20*time.Millisecond, w.Seen)
	row.Members = time.Since(began)
	return err
}

func (t Traffic) perNode(before Traffic, nodes int, during time.Duration) Traffic {
	share := func(now, then uint64) uint64 {
		return uint64(float64(now-then)/float64(nodes)/during.Seconds() + 0.5)
	}
	return Traffic{
		Packets: share(t.Packets, before.Packets), Bytes: share(t.Bytes, before.Bytes),
		StreamPackets: share(t.StreamPackets, before.StreamPackets), StreamBytes: share(t.StreamBytes, before.StreamBytes),
	}
}

// TableHead is the head of a Markdown table of rows.
const TableHead = `| nodes | loss | all joined | one change reaches a node: p50 | p99 | max | dead seen: p50 | max | false deaths | split | agreed again | members again | idle, packets/s | bytes/s |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`

// String is the row in Markdown.
func (r Row) String() string {
	ms := func(d time.Duration) string {
		if d >= 10*time.Second {
			return d.Round(100 * time.Millisecond).String()
		}
		return d.Round(time.Millisecond).String()
	}
	return fmt.Sprintf("| %d | %.0f %% | %s | %s | %s | %s | %s | %s | %d | %s | %s | %s | %d | %d |\n",
		r.Nodes, 100*r.Loss, ms(r.Joined), ms(share(r.Reach, 50)), ms(share(r.Reach, 99)), ms(share(r.Reach, 100)),
		ms(share(r.Dead, 50)), ms(share(r.Dead, 100)), r.False, r.Split, ms(r.Agree), ms(r.Members),
		r.Idle.Packets+r.Idle.StreamPackets, r.Idle.Bytes+r.Idle.StreamBytes)
}

// share is the value that so many percent of the sorted are not above.
func share(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// silences is a slog.Handler that counts how often a node says that it does not hear another
// any more.
type silences struct{ count *atomic.Int64 }

// Enabled leaves out what is below information.
func (silences) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle counts.
func (s silences) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "a node changed" {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "alive" && !a.Value.Bool() {
			s.count.Add(1)
		}
		return true
	})
	return nil
}

// WithAttrs needs to know of none.
func (s silences) WithAttrs([]slog.Attr) slog.Handler { return s }

// WithGroup needs to know of none.
func (s silences) WithGroup(string) slog.Handler { return s }
