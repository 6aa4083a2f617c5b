package scenarios

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/internal/trace"
	"github.com/sluice-mesh/sluice/mesh"
)

// Fake is a fabric of three kernels in memory. No packet passes: a question is answered
// by walking through what the kernels read back (internal/trace), to every endpoint
// that may answer.
type Fake struct {
	Mutate Mutate
	Faults int // so many of a hundred changes fail, and are tried again in the next round

	balancer mesh.Balancer
	kernels  map[string]*kernel.Fake
	holds    map[string]*plan.Plan // since the last Settle
	servers  map[netip.Addr]workload
	world    *world
	dice     *rand.Rand
}

// NewFake is one with its nodes fresh.
func NewFake(balancer mesh.Balancer) *Fake {
	f := &Fake{balancer: balancer, kernels: map[string]*kernel.Fake{}, dice: rand.New(rand.NewPCG(1, 2))}
	for _, name := range nodes() {
		f.kernels[name] = kernel.NewFake()
		f.kernels[name].Fault = func(kernel.Op) error {
			if f.dice.IntN(100) < f.Faults {
				return syscall.EAGAIN
			}
			return nil
		}
	}
	return f
}

// Balancer implements Fabric.
func (f *Fake) Balancer() mesh.Balancer { return f.balancer }

// Begin implements Fabric: here every scenario starts from nothing.
func (f *Fake) Begin(*world) error { return nil }

// The agent's own pause between two rounds, and how many it takes at most.
const (
	retryAfter = time.Second
	mostRounds = 100
)

// Settle implements Fabric.
func (f *Fake) Settle(ctx context.Context, w *world) error {
	f.holds, f.servers, f.world = map[string]*plan.Plan{}, map[netip.Addr]workload{}, w
	for _, wl := range w.workloads() {
		for _, a := range wl.attached {
			f.servers[a.V4], f.servers[a.V6] = wl, wl
		}
	}
	var errs []error
	for name, p := range f.Mutate.all(w.plans(f.balancer)) {
		errs = append(errs, f.apply(ctx, name, p))
		f.holds[name] = f.kernels[name].Holds()
	}
	return errors.Join(errs...)
}

// apply goes on until nothing fails.
func (f *Fake) apply(ctx context.Context, name string, p *plan.Plan) error {
	k := f.kernels[name]
	for _, s := range p.Sandboxes {
		if s.Kind == plan.KindEndpoint {
			k.PinAbsent(s.Name)
		}
	}
	rounds := 1
	for report := k.Apply(ctx, p); len(report.Failed) > 0; report = k.Apply(ctx, p) {
		if rounds++; rounds > mostRounds || f.Faults == 0 {
			return fmt.Errorf("%s: after %d rounds: %w", name, rounds, report.Failed[0])
		}
		time.Sleep(retryAfter)
	}
	return nil
}

// Empty implements Fabric.
func (f *Fake) Empty(ctx context.Context, w *world) error {
	errs := []error{f.Settle(ctx, w)}
	for name, p := range f.Mutate.all(w.plans(f.balancer)) {
		ops, err := f.kernels[name].Diff(ctx, p)
		errs = append(errs, err)
		for _, op := range ops {
			errs = append(errs, fmt.Errorf("%s: it differs from an empty cluster: %s", name, op))
		}
		for _, s := range f.holds[name].Sandboxes {
			if s.Kind == plan.KindEndpoint {
				errs = append(errs, fmt.Errorf("%s: endpoint %s still lives", name, s.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func (f *Fake) node(name string) trace.Node {
	return trace.Node{
		Name: name, Addr: address(name, false), Plan: f.holds[name],
		Local: []netip.Addr{address(name, true), address(name+"/2", false), address(name+"/2", true), bridge4(1).Addr(), bridge6(1).Addr()},
	}
}

// question is the packet as it meets the node that is dialled.
func (f *Fake) question(a ask) (trace.Question, error) {
	if a.at.IsValid() {
		return f.insideQuestion(a)
	}
	entry, _, _ := strings.Cut(a.to, "/")
	q := trace.Question{
		Proto: string(a.how.Proto), To: address(a.to, a.how.Six), Port: a.port,
		Via: trace.Outside, From: address(a.from, a.how.Six),
	}
	own := !isNode(entry) // localhost, bridge: the asker's own node
	switch {
	case isNode(a.from):
		if own {
			entry = a.from
		}
		if entry == a.from {
			q.Via, q.From = "", q.To
		}
	case a.from == "b1":
		entry, q.Via, q.From = "n1", bridgeName, bridge4(2).Addr()
		if a.how.Six {
			q.From = bridge6(2).Addr()
		}
	case lasts()[a.from] == 0:
		e, err := f.endpoint(a.from)
		if err != nil {
			return q, err
		}
		q.From = address(e.node, a.how.Six) // another node sees that one's address
		if e.node == entry {
			q.Via, q.From = plan.WayOutHost(ingressVNI), e.v4
			if a.how.Six {
				q.From = e.v6
			}
		}
	}
	q.Entry = f.node(entry)
	for _, name := range nodes() {
		q.Others = append(q.Others, f.node(name))
	}
	return q, nil
}

func (f *Fake) endpoint(name string) (workload, error) {
	for _, wl := range f.servers {
		if wl.name == name {
			return wl, nil
		}
	}
	return workload{}, fmt.Errorf("nobody is called %q", name)
}

// way is what a walk found.
type way struct {
	seen
	entry    string
	balancer string           // the sandbox that is asked
	mark     string           // of the service; "": it got none
	backends []netip.AddrPort // that may be chosen
}

// walk follows the packet to all who may answer.
func (f *Fake) walk(a ask) (way, error) {
	q, err := f.question(a)
	if err != nil {
		return way{}, err
	}
	hops, err := trace.Walk(q)
	if err != nil {
		return way{}, err
	}
	found := way{entry: q.Entry.Name, balancer: cmp.Or(q.Inside, plan.IngressSandbox)}
	hasMark, sees := regexp.MustCompile(`has mark (0x[0-9a-f]+)$`), regexp.MustCompile(` sees (\S+)$`)
	source := ""
	for i, h := range hops {
		if m := hasMark.FindStringSubmatch(h.What); h.Number == 3 && m != nil {
			found.mark = m[1]
		}
		if m := sees.FindStringSubmatch(h.What); h.Number == 8 && m != nil {
			source = m[1]
		}
		if last := i == len(hops)-1 || hops[i+1].Backend != h.Backend; !last {
			continue
		}
		switch {
		case h.State == trace.Broken:
			found.add(classify(a.how, h.Why), "")
		case h.Backend.IsValid():
			found.add(f.server(h.Backend), f.world.called(netip.MustParseAddr(source)))
			found.backends = append(found.backends, h.Backend)
		}
	}
	for _, name := range f.lots(found, a) {
		if name == refused {
			found.add(refused, "")
		}
	}
	return found, nil
}

// server names who listens at a target.
func (f *Fake) server(at netip.AddrPort) string {
	wl, ok := f.servers[at.Addr()]
	switch {
	case !ok:
		return silence
	case !slices.Contains(targets(), at.Port()):
		return refused // by the endpoint itself
	}
	return serverName(wl.name, at.Port())
}

// classify says what the client sees of a broken hop.
func classify(how How, why string) string {
	switch {
	case strings.HasPrefix(why, "refused: "), strings.Contains(why, "is not published here"):
		return refused
	case strings.Contains(why, "no backend takes a new connection"): // IPVS says port unreachable
		if how.Proto == mesh.TCP {
			return unreachable
		}
		return refused
	default:
		return silence
	}
}

// table is the nft table that a packet is balanced by.
func (f *Fake) table(w way) *plan.Table {
	return f.holds[w.entry].Sandbox(w.balancer, plan.KindIngress).Table("inet")
}

// A way's number is how many lots there are, with a bit where the client's address draws.
const (
	numberBits = 1<<16 - 1
	byClient   = 1 << 16
)

// lots are who gets each lot that the nft balancer may draw; nil where it draws none. A
// lot that nobody has is refused.
func (f *Fake) lots(w way, a ask) []string {
	if f.balancer != mesh.BalancerNFT || w.mark == "" {
		return nil
	}
	var lots []string
	for _, e := range f.table(w).Set("ways").Elements {
		if e.Key == w.mark {
			n, err := strconv.ParseUint(e.Value, 0, 32)
			if err != nil || n&^(byClient|numberBits) != 0 {
				return nil // another kind of way
			}
			lots = slices.Repeat([]string{refused}, int(n&numberBits))
		}
	}
	slots := "slots4"
	if a.how.Six {
		slots = "slots6"
	}
	for _, e := range f.table(w).Set(slots).Elements {
		if number, ok := strings.CutPrefix(e.Key, plan.Join(w.mark, "")); ok {
			i, err := strconv.ParseUint(number, 0, 32)
			addr, port, given := strings.Cut(e.Value, plan.Join("", ""))
			if !given {
				port = strconv.Itoa(int(a.port)) // kept
			}
			if err == nil && 0 < i && int(i) <= len(lots) {
				lots[i-1] = f.server(netip.MustParseAddrPort(joinHostPort(addr, port)))
			}
		}
	}
	return lots
}

func joinHostPort(addr, port string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]:" + port
	}
	return addr + ":" + port
}

// Dial implements Fabric.
func (f *Fake) Dial(a ask, _ int) (seen, error) {
	w, err := f.walk(a)
	return w.seen, err
}

// OnePort implements Fabric.
func (f *Fake) OnePort(from string, at target, how How) (seen, error) {
	var all seen
	for _, place := range at.at {
		w, err := f.walk(ask{from: from, to: place, port: at.port, how: how})
		if err != nil {
			return all, err
		}
		for _, name := range w.names {
			all.add(name, "")
		}
		for _, source := range w.sources {
			all.add(w.names[0], source)
		}
	}
	return all, nil
}

// Clients implements Fabric: here a client is a lot, and a lot is drawn by address.
func (f *Fake) Clients(_ int, a ask) ([]string, bool, error) {
	w, err := f.walk(a)
	lots := f.lots(w, a)
	return lots, len(lots) > 0, err
}

// Spread implements Fabric.
func (f *Fake) Spread(n int, a ask) (map[string]int, bool, error) {
	w, err := f.walk(a)
	lots := f.lots(w, a)
	counts := map[string]int{}
	for _, name := range lots {
		counts[name]++
	}
	for name := range counts {
		counts[name] = (n*counts[name] + len(lots)/2) / len(lots)
	}
	return counts, len(lots) > 0, err
}
