package scenarios

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Seen is what one scenario showed on a fabric.
type Seen struct {
	Title    string
	Answers  []Answer
	Failures []string // each with file and line
}

// Answer is what one question showed.
type Answer struct {
	Question string // the step without what is expected
	How      How
	Only     bool // asked of this balancer alone
	Outcome  string
}

// run is one scenario on its way.
type run struct {
	ctx    context.Context // kept, as a run lives within one call
	fabric Fabric
	world  *world
	dirty  bool // the world has changed since the nodes settled
	flows  map[string]map[How]flow
	noted  map[string][]string
	seen   *Seen
}

// Run tells a scenario on a fabric, which afterwards is empty again: that it is so is part of it.
func Run(ctx context.Context, tb testing.TB, f Fabric, s *Scenario) *Seen {
	tb.Helper()
	r := &run{
		ctx: ctx, fabric: f, world: newWorld(tb), dirty: true, seen: &Seen{Title: s.Title()},
		flows: map[string]map[How]flow{}, noted: map[string][]string{},
	}
	begin := Step{File: s.Topic + ".txtar", Line: s.Steps[0].Line, Text: "the beginning of " + s.Name}
	if err := f.Begin(r.world); err != nil {
		r.fail(begin, "%v", err)
	}
	for _, step := range s.Steps {
		if len(r.seen.Failures) > 0 {
			break // what follows would fail for the same reason
		}
		if step.Only == "" || step.Only == f.Balancer() {
			step.run(r, step)
		}
	}
	for _, hows := range r.flows {
		for _, open := range hows {
			open.close()
		}
	}
	end := Step{File: s.Topic + ".txtar", Line: s.Steps[len(s.Steps)-1].Line, Text: "the end of " + s.Name}
	r.world = newWorld(tb)
	err := f.Begin(r.world)
	if err == nil {
		err = f.Empty(ctx, r.world)
	}
	if err != nil {
		r.fail(end, "%v", err)
	}
	return r.seen
}

func (r *run) fail(s Step, format string, args ...any) {
	r.seen.Failures = append(r.seen.Failures, fmt.Sprintf("%s: %s: %s", s.Where(), s.Text, fmt.Sprintf(format, args...)))
}

// settle brings the changes so far to the nodes.
func (r *run) settle(s Step) {
	if !r.dirty {
		return
	}
	r.dirty = false
	if err := r.fabric.Settle(r.ctx, r.world); err != nil {
		r.fail(s, "%v", err)
	}
}

// tell notes an answer, and whether it is the one that is expected.
func (r *run) tell(s Step, how How, want, got string) {
	question, _, _ := strings.Cut(s.Text, " -> ")
	r.seen.Answers = append(r.seen.Answers, Answer{Question: question, How: how, Only: s.Only != "", Outcome: got})
	if want != got {
		r.fail(s, "%s: got %s, want %s", how, got, want)
	}
}

// tellSeen is tell where the source counts only if one is expected.
func (r *run) tellSeen(s Step, how How, expected want, got seen) {
	if expected.source == "" {
		got.sources = nil
	}
	r.tell(s, how, expected.String(), got.String())
}

// each is a step that asks in every way, of a world that has settled. An error fails one
// way, and the next is asked all the same.
func each(hows []How, do func(r *run, s Step, how How) error) func(r *run, s Step) {
	return func(r *run, s Step) {
		r.settle(s)
		for _, how := range hows {
			if err := do(r, s, how); err != nil {
				r.fail(s, "%s: %v", how, err)
			}
		}
	}
}

// ask is a question to the first place of a target.
func (r *run) ask(from string, to target, how How) (ask, error) {
	at, err := r.world.virtual(to.at[0], how)
	return ask{from, to.at[0], to.port, how, at}, err
}

func parseDial(w *words) (func(r *run, s Step), error) {
	from, err := w.need("who dials")
	if err != nil {
		return nil, err
	}
	to, err := w.single()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	expected, err := w.want()
	return each(hows, func(r *run, s Step, how How) error {
		a, err := r.ask(from, to, how)
		if err != nil {
			return err
		}
		got, err := r.fabric.Dial(a, len(expected.names))
		if err != nil {
			return err
		}
		r.tellSeen(s, how, expected, got)
		return nil
	}), err
}

func parseOnePort(w *words) (func(r *run, s Step), error) {
	from, err := w.need("who dials")
	if err != nil {
		return nil, err
	}
	to, err := w.target()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	expected, err := w.want()
	return each(hows, func(r *run, s Step, how How) error {
		got, err := r.fabric.OnePort(from, to, how)
		if err != nil {
			return err
		}
		// Which of them each flow meets is the balancer's business.
		if !slices.ContainsFunc(got.names, func(n string) bool { return !slices.Contains(expected.names, n) }) {
			got.names = expected.names
		}
		r.tellSeen(s, how, expected, got)
		return nil
	}), err
}

func parseHold(w *words) (func(r *run, s Step), error) {
	name, from := w.next(), w.next()
	to, err := w.single()
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	expected, err := w.want()
	open := each(hows, func(r *run, s Step, how How) error {
		a, err := r.ask(from, to, how)
		if err != nil {
			return err
		}
		f, err := r.fabric.Hold(a, expected.names[0])
		if err != nil {
			return err
		}
		r.flows[name][how] = f
		r.tell(s, how, expected.names[0], expected.names[0])
		return nil
	})
	return func(r *run, s Step) {
		r.flows[name] = map[How]flow{}
		open(r, s)
	}, err
}

func parseAsk(w *words) (func(r *run, s Step), error) {
	name, err := w.need("the flow's name")
	if err != nil {
		return nil, err
	}
	hows := w.hows()
	expected, err := w.want()
	return each(hows, func(r *run, s Step, how How) error {
		f := r.flows[name][how]
		if f == nil {
			return fmt.Errorf("no flow is called %s", name)
		}
		got := f.ask()
		if slices.Contains(expected.names, got) {
			got = strings.Join(expected.names, "|") // one of them answers
		}
		r.tell(s, how, strings.Join(expected.names, "|"), got)
		return nil
	}), err
}
