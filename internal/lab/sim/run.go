package sim

import (
	"fmt"
	"time"
)

// Result is how a schedule ended.
type Result struct {
	Agreed  time.Duration // after all healed
	Seen    time.Duration // until every node found all others alive
	Records int
	Traffic Traffic
	Trace   uint64 // of the network, at the end
}

// Run plays a schedule in a world and tells what was wrong at the end. It is to be called in a
// synctest bubble, in which nothing of it is left when it returns.
func Run(o Options, s Schedule, within time.Duration) (res Result, err error) {
	o.Seed, o.Nodes, o.Removals = s.Seed, s.Nodes, s.Removals
	w, err := NewWorld(o)
	if err == nil {
		res, err = w.play(s, within)
	}
	res.Trace = w.Net.Trace()
	if closed := w.Close(); err == nil {
		err = closed
	}
	return res, err
}

func (w *World) play(s Schedule, within time.Duration) (res Result, err error) {
	began := time.Now()
	for _, step := range s.Steps {
		sleep(w.ctx, step.At-time.Since(began))
		w.note(step.Text, "at", step.At)
		step.do(w)
	}
	sleep(w.ctx, s.Long-time.Since(began))
	w.note("all heals")
	w.heal()
	return w.judge(within)
}

// judge waits for agreement and sees whether it lasts.
func (w *World) judge(within time.Duration) (res Result, err error) {
	healed := time.Now()
	d := digests{}
	if res.Agreed, err = Within(within, 50*time.Millisecond, func() error { return w.Agreed(d) }); err != nil {
		return res, fmt.Errorf("no agreement %v after all healed: %w", res.Agreed, err)
	}
	if _, err = Within(within, 50*time.Millisecond, w.Seen); err != nil {
		return res, fmt.Errorf("membership is not whole %v after all healed: %w", time.Since(healed), err)
	}
	res.Seen = time.Since(healed)
	sleep(w.ctx, within-time.Since(healed))
	first := d.of(w.Nodes[0].plane.Load())
	for range settled / time.Second {
		if err = w.Agreed(d); err != nil {
			return res, fmt.Errorf("agreement does not last, %v after all healed: %w", time.Since(healed), err)
		}
		sleep(w.ctx, time.Second)
	}
	if d.of(w.Nodes[0].plane.Load()) != first {
		return res, fmt.Errorf("the records still change %v after all healed", time.Since(healed))
	}
	if err = w.Sound(); err != nil {
		return res, err
	}
	res.Records, res.Traffic = len(w.Nodes[0].plane.Load().Records()), w.Net.Traffic()
	return res, nil
}
