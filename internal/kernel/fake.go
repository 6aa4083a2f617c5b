package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/ipvs"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Fake is a kernel in memory, for tests that want thousands of rounds. It
// refuses what the real one refuses, with the same errors, and holds what the
// real one would hold: deleting a device takes its peer, addresses, neighbours
// and routes along.
type Fake struct {
	// Fault, where it is set, is asked before every op; its error is the op's.
	Fault func(Op) error

	spaces map[string]*fakeSpace
}

type fakeSpace struct {
	plan.Sandbox                   // Tables with their elements
	settings     map[string]string // sysctl
	foreign      []*foreignTable
	user         bool // the administrator's table is there, without rules
}

// NewFake returns a machine with a host that has one card, eth0.
func NewFake() *Fake {
	f := &Fake{spaces: map[string]*fakeSpace{}}
	f.add(plan.HostSandbox, plan.KindHost)
	for _, key := range []string{"net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/all/accept_ra", "net/ipv6/conf/default/accept_ra"} {
		f.spaces[plan.HostSandbox].settings[key] = "1"
	}
	return f
}

func (f *Fake) add(name string, kind plan.Kind) {
	f.spaces[name] = &fakeSpace{Sandbox: plan.Sandbox{Name: name, Kind: kind}, settings: map[string]string{}}
}

// Apply implements Applier.
func (f *Fake) Apply(ctx context.Context, want *plan.Plan) Report { return apply(ctx, f, want) }

// Diff implements Applier.
func (f *Fake) Diff(ctx context.Context, want *plan.Plan) ([]Op, error) { return diff(ctx, f, want) }

// Pin makes an endpoint's namespace, as a workload's owner would.
func (f *Fake) Pin(sandbox string) { f.add(sandbox, plan.KindEndpoint) }

// Text is all that the machine holds, in the plan's text form.
func (f *Fake) Text() string { return f.Holds().Text() }

// Holds is all that the machine holds, read back as a plan: rules as they were loaded,
// settings one by one. It is the caller's to read only.
func (f *Fake) Holds() *plan.Plan {
	var p plan.Plan
	for _, space := range f.spaces {
		s := space.Sandbox
		s.Backends = slices.Clone(s.Backends) // their order is that of their arrival, and stays
		for key, value := range space.settings {
			s.Sysctls = append(s.Sysctls, plan.Sysctl{Key: key, Value: value})
		}
		slices.SortFunc(s.Sysctls, func(a, b plan.Sysctl) int { return strings.Compare(a.Key, b.Key) })
		p.Sandboxes = append(p.Sandboxes, &s)
	}
	p.Sort()
	return &p
}

// sandboxes implements machine.
func (f *Fake) sandboxes() (map[string]place, error) {
	found := map[string]place{}
	for name, s := range f.spaces {
		found[name] = place{kind: s.Kind}
	}
	return found, nil
}

// observe implements machine.
func (f *Fake) observe(s step, want *plan.Sandbox) (have observed, err error) {
	space := f.spaces[want.Name]
	if space == nil {
		return have, fmt.Errorf("%s: %w", want.Name, errNoSandbox)
	}
	switch s {
	case stepSysctl:
		have.settings = space.settings
	case stepNFT:
		for _, t := range space.Tables {
			have.tables = append(have.tables, loadedTable{family: t.Family, sum: skeletonSum(t), intact: true, sets: t.Sets})
		}
	case stepUser:
		have.user = userState{table: space.user, chain: space.user, bare: space.user}
	case stepLock:
		if space.Lock != nil {
			have.lock.text = space.Lock.Ruleset()
		}
	case stepPass:
		have.foreign = space.foreign
	case stepFlows: // as the real one, it remembers to which targets there may be flows
		for _, flow := range want.Flows {
			if flow != plan.Nowhere() && !slices.Contains(space.Flows, flow) {
				space.Flows = append(space.Flows, flow)
			}
		}
		have.Flows = slices.Clone(space.Flows)
	default:
		have.Sandbox = space.Sandbox
		have.Links = slices.Clone(space.Links)
	}
	return have, nil
}

// do implements machine.
func (f *Fake) do(op Op) error {
	if f.Fault != nil {
		if err := f.Fault(op); err != nil {
			return err
		}
	}
	if o, ok := op.Object.(Namespace); ok {
		return f.doNamespace(op, o)
	}
	s := f.spaces[op.Sandbox]
	if s == nil {
		if op.Verb == Delete {
			return nil
		}
		return fmt.Errorf("%s: %w", op.Sandbox, errNoSandbox)
	}
	switch o := op.Object.(type) {
	case plan.Link:
		return f.doLink(s, op.Verb, o)
	case plan.Sysctl:
		return s.setSysctl(o)
	case plan.Addr:
		return put(op.Verb, &s.Addrs, o, func(a plan.Addr) plan.Addr { return a }, s.needs(o.Link))
	case plan.Neigh:
		return put(op.Verb, &s.Neighs, o, neighKey, s.needs(o.Link))
	case plan.FDBEntry:
		return put(op.Verb, &s.FDB, o, fdbKey, s.needsTunnel(o))
	case plan.Rule, plan.Route:
		return s.route(op)
	case plan.VirtualServer:
		return put(op.Verb, &s.Virtual, o, virtualKey, putFlags(&ipvs.Service{}, o))
	case plan.Backend:
		return put(op.Verb, &s.Backends, o, backendKey, s.needsServer(o))
	case BackendOrder:
		return s.order(o)
	case plan.Timeouts:
		s.Timeouts = o
		return nil
	case plan.Flow:
		return put(op.Verb, &s.Flows, o, func(have plan.Flow) plan.Flow { return have }, nil)
	case Announcement: // nobody listens
		return s.needs(o.Link)
	case plan.Zone: // no packet passes, so there are no flows of one
		return nil
	case TableLoad:
		return s.loadTable(op.Verb, o.Table)
	case ElementChange:
		return s.changeElements(o)
	case UserTable:
		return s.setUser(op.Verb)
	case LockLoad:
		return s.loadLock(op.Verb, o.Table)
	case Pass:
		return s.pass(op.Verb, o)
	default:
		return fmt.Errorf("%T: %w", op.Object, syscall.EINVAL)
	}
}

func (f *Fake) doNamespace(op Op, o Namespace) error {
	s := f.spaces[op.Sandbox]
	switch {
	case op.Verb == Delete && s != nil:
		for _, l := range slices.Clone(s.Links) {
			f.dropLink(s, l)
		}
		delete(f.spaces, op.Sandbox)
	case op.Verb == Delete:
	case s != nil:
		return syscall.EEXIST
	case o.Kind == plan.KindEndpoint:
		return errNoSandbox
	default:
		f.add(op.Sandbox, o.Kind)
	}
	return nil
}

// put adds, replaces or deletes one value in a list that is keyed. refused is
// what the kernel would say to a value that cannot be there.
func put[T comparable, K comparable](verb Verb, list *[]T, o T, key func(T) K, refused error) error {
	i := slices.IndexFunc(*list, func(have T) bool { return key(have) == key(o) })
	switch {
	case verb == Delete && i >= 0:
		*list = slices.Delete(slices.Clone(*list), i, i+1)
	case verb == Delete:
	case refused != nil:
		return refused
	case i < 0:
		*list = append(slices.Clone(*list), o)
	case verb == Add:
		return syscall.EEXIST
	default:
		*list = slices.Clone(*list)
		(*list)[i] = o
	}
	return nil
}

func (s *fakeSpace) link(name string) (plan.Link, bool) {
	i := slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Name == name })
	if i < 0 {
		return plan.Link{}, false
	}
	return s.Links[i], true
}

func (s *fakeSpace) needs(link string) error {
	if _, ok := s.link(link); !ok {
		return fmt.Errorf("device %s: %w", link, syscall.ENODEV)
	}
	return nil
}

func (s *fakeSpace) needsTunnel(e plan.FDBEntry) error {
	if err := s.needs(e.Link); err != nil {
		return err
	}
	if l, _ := s.link(e.Link); l.Kind != plan.LinkVXLAN {
		return fmt.Errorf("device %s: %w", e.Link, syscall.EOPNOTSUPP)
	}
	if !e.Dst.IsValid() {
		return syscall.EINVAL
	}
	return nil
}

func (s *fakeSpace) needsServer(b plan.Backend) error {
	key := serverOf(b)
	if !slices.ContainsFunc(s.Virtual, func(v plan.VirtualServer) bool { return virtualKey(v) == key }) {
		return syscall.ESRCH
	}
	return nil
}

// order takes backends out and puts them in again, behind the others.
func (s *fakeSpace) order(o BackendOrder) error {
	for _, b := range o.Backends {
		for _, verb := range []Verb{Delete, Add} {
			if err := put(verb, &s.Backends, b, backendKey, s.needsServer(b)); err != nil {
				return err
			}
		}
	}
	return nil
}

// setSysctl refuses a device's setting where there is no such device.
func (s *fakeSpace) setSysctl(o plan.Sysctl) error {
	part := strings.Split(o.Key, "/")
	if len(part) == 5 && (part[2] == "conf" || part[2] == "neigh") {
		_, known := s.settings[o.Key]
		if err := s.needs(part[3]); err != nil && !known && part[3] != "all" && part[3] != "default" {
			return err
		}
	}
	s.settings[o.Key] = o.Value
	return nil
}

// PinAbsent is Pin where the namespace is not there yet.
func (f *Fake) PinAbsent(sandbox string) {
	if f.spaces[sandbox] == nil {
		f.Pin(sandbox)
	}
}
