package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// Kernel is the running kernel, seen from the network namespace in which New
// was called: that one is the host. Its methods are for one goroutine at a time,
// but for those of pin.go, host.go, held.go and monitor.go, which may be called beside them.
type Kernel struct {
	netnsDir string // where sandboxes are mounted
	host     *namespace
	open     map[string]*namespace // by sandbox, the host not included
	settings *settings             // the host's, from before we changed them
	kept     *keptUser             // the administrator's rules
	loaded   bool                  // the round under way has loaded a table into the host
	own      *writers
	monitor  *monitor
	stages   stages  // nil but in tests
	holders  holders // of ports that others have
	herald   *herald
	captures captures // of the host
	lock     lock
}

// netnsName is the directory in RUN_DIR where sandboxes are mounted.
const netnsName = "netns"

// New opens the kernel and begins to watch it (Drifted). Sandboxes are mounted at
// runDir/netns/NAME; what the host's settings were is kept in runDir/settings.json.
func New(runDir string) (*Kernel, error) {
	fd, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open own namespace: %w", err)
	}
	host := &namespace{name: plan.HostSandbox, kind: plan.KindHost, fd: fd}
	if host.id, err = identify(fd); err != nil {
		host.close()
		return nil, fmt.Errorf("look at own namespace: %w", err)
	}
	if host.link, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		host.close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	dir, err := filepath.Abs(runDir)
	if err != nil {
		host.close()
		return nil, err
	}
	stored, err := openSettings(dir)
	if err != nil {
		host.close()
		return nil, err
	}
	kept, err := openUser(dir, stored.home)
	if err != nil {
		host.close()
		return nil, err
	}
	k := &Kernel{
		netnsDir: filepath.Join(dir, netnsName), host: host, open: map[string]*namespace{}, settings: stored, kept: kept, own: &writers{},
	}
	host.own = k.own
	if k.monitor, err = newMonitor(host, k.netnsDir, k.own); err != nil {
		host.close()
		return nil, err
	}
	k.captures.recall(dir, stored.home)
	k.herald = newHerald()
	k.lock.holder = &namespace{name: plan.HostSandbox, kind: plan.KindHost, fd: host.fd}
	return k, nil
}

// Close ends the watching and closes the handles. What was programmed stays.
func (k *Kernel) Close() error {
	k.monitor.close()
	k.herald.close()
	k.lock.close()
	for name, n := range k.open {
		n.close()
		delete(k.open, name)
	}
	k.host.close()
	return nil
}

// Apply implements Applier.
func (k *Kernel) Apply(ctx context.Context, want *plan.Plan) Report {
	k.monitor.hold()
	defer k.monitor.release()
	k.loaded = false
	report := apply(ctx, k, want)
	if ctx.Err() != nil {
		return report
	}
	if err := errors.Join(k.forgetDeparted(hostFlows(want)), k.forgetRefused(want), k.forgetAstray(want)); err != nil {
		report.Failed = append(report.Failed, Failure{plan.HostSandbox + ": flows", reasonOf(err), err})
	}
	if err := k.keepUser(userIn(want)); err != nil {
		report.Failed = append(report.Failed, Failure{plan.HostSandbox + ": user rules", reasonOf(err), err})
	}
	return report
}

// Diff implements Applier.
func (k *Kernel) Diff(ctx context.Context, want *plan.Plan) ([]Op, error) { return diff(ctx, k, want) }

// Path is where a sandbox is mounted; "" for the host.
func (k *Kernel) Path(sandbox string) string {
	if sandbox == plan.HostSandbox {
		return ""
	}
	return filepath.Join(k.netnsDir, sandbox)
}

// kindOf tells a sandbox's kind from its name.
func kindOf(name string) (plan.Kind, bool) {
	if _, ok := plan.EndpointID(name); ok {
		return plan.KindEndpoint, true
	}
	switch {
	case name == plan.IngressSandbox:
		return plan.KindIngress, true
	case strings.HasPrefix(name, plan.NetworkSandboxes):
		return plan.KindNetwork, true
	default:
		return "", false
	}
}

// sandboxes implements machine. A file that is no mounted namespace (the machine
// was rebooted, somebody unmounted it) is a husk; one that cannot be looked
// at is none, or a new namespace would be mounted over a living one.
func (k *Kernel) sandboxes() (map[string]place, error) {
	found := map[string]place{plan.HostSandbox: {kind: plan.KindHost}}
	entries, err := os.ReadDir(k.netnsDir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, e := range entries {
		kind, ours := kindOf(e.Name())
		if !ours {
			continue
		}
		fd, id, err := openFile(k.Path(e.Name()))
		if err == nil {
			fd.Close()
		}
		known := k.open[e.Name()]
		another := err == nil && known != nil && known.id != id
		found[e.Name()] = place{kind: kind, husk: absent(err) || another}
	}
	return found, nil
}

// namespace returns the open namespace of a sandbox. One that is open is the
// sandbox's whatever became of its mount, which doNamespace puts back.
func (k *Kernel) namespace(sandbox string) (*namespace, error) {
	if sandbox == plan.HostSandbox {
		return k.host, nil
	}
	if known := k.open[sandbox]; known != nil {
		return known, nil
	}
	kind, _ := kindOf(sandbox)
	n, err := openNamespace(sandbox, kind, k.Path(sandbox))
	if err != nil && absent(err) {
		return nil, fmt.Errorf("%s: %w", sandbox, errNoSandbox)
	}
	if err != nil {
		return nil, err
	}
	n.own, n.stages = k.own, k.stages
	k.open[sandbox] = n
	return n, nil
}

// observe implements machine.
func (k *Kernel) observe(s step, want *plan.Sandbox) (have observed, err error) {
	n, err := k.namespace(want.Name)
	if err != nil {
		return have, err
	}
	switch s {
	case stepLinks:
		have.Links, err = k.observeLinks(n, want)
	case stepSysctl:
		have.settings, err = n.observeSysctls(want.Sysctls)
	case stepAddr:
		have.Addrs, err = n.observeAddrs()
	case stepNeigh:
		have.Neighs, err = n.observeNeighs()
	case stepFDB:
		have.FDB, err = n.observeFDB()
	case stepRule:
		have.Rules, err = n.observeRules()
	case stepRoute:
		have.Routes, err = n.observeRoutes()
	case stepNFT:
		if have.tables, err = n.observeNFT(want.Tables); err == nil && n == k.host {
			k.captures.see(have.tables)
		}
	case stepUser:
		have.user, err = k.observeUser()
	case stepLock:
		have.lock, err = k.observeLock()
	case stepPass:
		have.foreign, err = n.observeForeign(want.Passages)
	case stepIPVS:
		if n.kind == plan.KindNetwork || n.kind == plan.KindIngress {
			have.Virtual, have.Backends, have.Timeouts, err = n.observeIPVS()
		}
	case stepFlows:
		if have.Flows, err = n.observeFlows(want.Flows); err == nil {
			have.Zones, err = n.observeZones(want.Zones)
		}
	}
	return have, err
}

// do implements machine.
func (k *Kernel) do(op Op) error {
	k.stages.around("before", op)
	err := k.doOp(op)
	k.stages.around("after", op)
	return err
}

func (k *Kernel) doOp(op Op) error {
	if o, ok := op.Object.(Namespace); ok {
		return k.doNamespace(op, o)
	}
	n, err := k.namespace(op.Sandbox)
	if err != nil {
		if op.Verb == Delete && errors.Is(err, errNoSandbox) {
			return nil
		}
		return err
	}
	switch o := op.Object.(type) {
	case plan.Link:
		return k.doLink(n, op.Verb, o)
	case plan.Sysctl:
		if n == k.host {
			return k.setHostSysctl(o)
		}
		return n.setSysctl(o)
	case plan.Addr:
		return n.doAddr(op.Verb, o)
	case Announcement:
		return k.herald.announce(n, o)
	case plan.Neigh:
		return n.doNeigh(op.Verb, o)
	case plan.FDBEntry:
		return n.doFDB(op.Verb, o)
	case plan.Rule:
		return n.doRule(op.Verb, o)
	case plan.Route:
		return n.doRoute(op.Verb, o)
	case plan.Flow:
		return n.doFlow(o)
	case plan.Zone:
		return n.doZone(o)
	case TableLoad, ElementChange:
		if n == k.host {
			return k.changeHost(op)
		}
		return n.doNFT(op)
	case UserTable:
		return k.doUser(op.Verb, o)
	case LockLoad:
		return k.doLock(op.Verb, o)
	case Pass:
		return n.doPass(op.Verb, o)
	default:
		return n.doIPVS(op)
	}
}

// doNamespace makes or removes a sandbox. An endpoint's namespace is somebody
// else's: it is pinned before its record is written, never made here.
func (k *Kernel) doNamespace(op Op, o Namespace) error {
	if op.Verb == Delete {
		return k.removeNamespace(op.Sandbox)
	}
	if known := k.open[op.Sandbox]; known != nil {
		return k.mount(known.fd, op.Sandbox) // it lost its mount, and nothing else
	}
	if o.Kind == plan.KindEndpoint {
		return &Refusal{plan.SandboxGone, "the endpoint's namespace is not there", "detach the endpoint and attach it again"}
	}
	fd, err := newNamespace()
	if err != nil {
		return err
	}
	defer fd.Close()
	k.stages.reach("namespace made")
	return k.mount(fd, op.Sandbox)
}

// removeNamespace takes our links out first: the kernel clears a dead namespace
// later, and until then their other ends would still be there.
func (k *Kernel) removeNamespace(sandbox string) error {
	n, err := k.namespace(sandbox)
	if err == nil {
		err = n.removeLinks()
		if n.kind == plan.KindEndpoint {
			err = errors.Join(err, n.removeRules(), n.forgetNames())
		}
		n.close()
		delete(k.open, sandbox)
	} else if errors.Is(err, errNoSandbox) {
		err = nil
	}
	k.stages.reach("links removed")
	return errors.Join(err, k.unmount(sandbox))
}
