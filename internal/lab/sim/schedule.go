package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Schedule is what happens in a world. It follows from a seed alone.
type Schedule struct {
	Seed  uint64
	Nodes int
	Long  time.Duration // when all that is still broken heals

	// Removals: operators put nodes that lost their disk out for good, which gives all others new
	// keys, instead of only deleting their records.
	Removals bool

	Steps []Step // by time
}

// Step is one thing that happens.
type Step struct {
	At   time.Duration
	Text string
	do   func(*World)
}

// String is one line a step.
func (s Schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes, removals %t\n", s.Seed, s.Nodes, s.Removals)
	for _, step := range s.Steps {
		fmt.Fprintf(&b, "%8.3f  %s\n", step.At.Seconds(), step.Text)
	}
	fmt.Fprintf(&b, "%8.3f  all heals\n", s.Long.Seconds())
	return b.String()
}

// Plan makes the schedule of a seed for a number of nodes from least to most.
func Plan(seed uint64, least, most int) Schedule {
	r := rand.New(rand.NewPCG(seed, 2))
	p := &planner{rand: r, busy: map[int]time.Duration{}}
	p.Seed, p.Nodes = seed, least+r.IntN(most-least+1)
	p.Long = 30*time.Second + p.between(0, 90*time.Second)
	p.Removals = rand.New(rand.NewPCG(seed, 4)).IntN(3) == 0
	p.plan()
	slices.SortStableFunc(p.Steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return p.Schedule
}

type planner struct {
	Schedule
	rand    *rand.Rand
	now     time.Duration
	busy    map[int]time.Duration // until when something is wrong with a node
	cut     time.Duration         // until when the network is split
	weather time.Duration         // until when the weather is bad
}

func (p *planner) plan() {
	faults := []struct {
		weight int
		plan   func()
	}{
		{4, p.split},
		{2, p.oneWay},
		{2, p.alone},
		{4, p.storm},
		{4, p.crash},
		{2, p.restart},
		{3, p.power},
		{2, p.wipe},
		{4, p.pause},
		{3, p.clock},
		{3, p.disk},
		{1, p.blackout},
	}
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	for gap := p.between(time.Second, 10*time.Second); ; {
		p.now += p.between(gap/4, 2*gap)
		if p.now >= p.Long {
			break
		}
		pick := p.rand.IntN(total)
		for _, f := range faults {
			if pick -= f.weight; pick < 0 {
				f.plan()
				break
			}
		}
	}
	p.writes()
	p.keys()
}

func (p *planner) between(least, most time.Duration) time.Duration {
	return least + time.Duration(p.rand.Int64N(int64(most-least)))
}

func (p *planner) step(at time.Duration, do func(*World), text string, args ...any) {
	if at < p.Long {
		p.Steps = append(p.Steps, Step{at, fmt.Sprintf(text, args...), do})
	}
}

// end is when a fault that begins now ends: often soon, sometimes not before all heals.
func (p *planner) end() time.Duration {
	if p.rand.IntN(3) == 0 {
		return p.now + p.between(100*time.Millisecond, 3*time.Second)
	}
	return p.now + p.between(time.Second, 60*time.Second)
}

// sound picks a node that nothing is wrong with, and makes it busy until the end that it gives.
func (p *planner) sound() (node int, end time.Duration, ok bool) {
	node, end = p.rand.IntN(p.Nodes), p.end()
	if p.busy[node] > p.now {
		return 0, 0, false
	}
	p.busy[node] = end
	return node, end, true
}

// node plans a fault of one node and its end.
func (p *planner) node(name string, begin, end func(*Node)) {
	i, until, ok := p.sound()
	if !ok {
		return
	}
	p.step(p.now, func(w *World) { begin(w.Nodes[i]) }, "n%d: %s", i, name)
	p.step(until, func(w *World) { end(w.Nodes[i]) }, "n%d: end of %s", i, name)
}

// later does something with a node's process, after what is under way with it.
func later(f func(*Node)) func(*Node) {
	return func(n *Node) { n.todo <- func() { f(n) } }
}

func begin(n *Node) { n.start(n.world.ctx) }

func (p *planner) crash()   { p.node("kill", later((*Node).crash), later(begin)) }
func (p *planner) restart() { p.node("stop", later((*Node).stop), later(begin)) }
func (p *planner) power()   { p.node("no power", later((*Node).powerOff), later(begin)) }
func (p *planner) pause()   { p.node("pause", (*Node).pause, (*Node).resume) }

func (p *planner) disk() {
	set := func(broken bool) func(*Node) { return func(n *Node) { n.broken.Store(broken) } }
	p.node("disk errors", set(true), set(false))
}

func (p *planner) wipe() {
	p.node("disk lost", later(func(n *Node) {
		if plane := n.plane.Load(); plane != nil {
			n.world.book.lose(plane.ID())
		}
		n.wipe()
	}), later(begin))
}

func (p *planner) clock() {
	i := p.rand.IntN(p.Nodes)
	by := p.between(-time.Hour, time.Hour).Round(time.Second)
	p.step(p.now, func(w *World) { w.Nodes[i].skew.Add(int64(by)) }, "n%d: clock steps by %v", i, by)
}

// blackout takes every node's power, and gives it back to one after the other.
func (p *planner) blackout() {
	for i := range p.Nodes {
		if p.busy[i] > p.now {
			return
		}
	}
	spread := p.between(time.Millisecond, 20*time.Second)
	for i := range p.Nodes {
		back := p.now + 100*time.Millisecond + p.between(0, spread)
		p.busy[i] = back
		p.step(p.now, func(w *World) { later((*Node).powerOff)(w.Nodes[i]) }, "n%d: no power, as everywhere", i)
		p.step(back, func(w *World) { later(begin)(w.Nodes[i]) }, "n%d: power is back", i)
	}
}

// storm is bad weather.
func (p *planner) storm() {
	if p.weather > p.now {
		return
	}
	p.weather = p.end()
	weather := Weather{
		Loss: p.rand.Float64() * 0.4, Duplicate: p.rand.Float64() * 0.2,
		Late: p.rand.Float64(), Delay: p.between(time.Millisecond, 500*time.Millisecond),
	}
	p.step(p.now, func(w *World) { w.Net.SetWeather(weather) }, "weather: %.0f%% lost, %.0f%% twice, %.0f%% up to %v late",
		100*weather.Loss, 100*weather.Duplicate, 100*weather.Late, weather.Delay.Round(time.Millisecond))
	p.step(p.weather, func(w *World) { w.Net.SetWeather(Weather{}) }, "weather: good")
}

// cutting plans what is cut at one time, one pair of hosts after the other.
func (p *planner) cutting(text string, cut func(from, to int) bool) {
	if p.cut > p.now {
		return
	}
	p.cut = p.end()
	p.step(p.now, func(w *World) {
		for i, from := range w.Nodes {
			for j, to := range w.Nodes {
				if i != j && cut(i, j) {
					w.Net.Cut(from.at.Addr(), to.at.Addr())
				}
			}
		}
	}, "cut: %s", text)
	p.step(p.cut, func(w *World) { w.Net.Mend() }, "cut: mended")
}

// side is a random part of the nodes.
func (p *planner) side() (side map[int]bool, text string) {
	side = map[int]bool{}
	var members []string
	for i := range p.Nodes {
		if p.rand.IntN(2) == 0 {
			side[i] = true
			members = append(members, fmt.Sprint("n", i))
		}
	}
	return side, strings.Join(members, " ")
}

func (p *planner) split() {
	side, text := p.side()
	p.cutting(text+" from the rest", func(from, to int) bool { return side[from] != side[to] })
}

func (p *planner) oneWay() {
	side, text := p.side()
	p.cutting(text+" are not heard by the rest", func(from, to int) bool { return side[from] && !side[to] })
}

// alone cuts one way between two nodes, or both, and all else passes.
func (p *planner) alone() {
	one, two, both := p.rand.IntN(p.Nodes), p.rand.IntN(p.Nodes), p.rand.IntN(2) == 0
	p.cutting(fmt.Sprintf("n%d to n%d, both ways %t", one, two, both), func(from, to int) bool {
		return from == one && to == two || both && from == two && to == one
	})
}
