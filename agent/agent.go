package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-mesh/sluice/mesh"
)

// Run is the agent: it returns when ctx ends, with nil, or earlier with why it
// cannot go on and what to do. What it made in the kernel stays, so that
// packets pass while no agent runs. Two agents may run in one process if nothing
// in their configurations is the same.
func Run(ctx context.Context, cfg Config) error { return run(ctx, cfg, realSystem()) }

func run(ctx context.Context, cfg Config, sys system) (err error) {
	if cfg, err = cfg.complete(); err != nil {
		return err
	}
	if missing := sys.missing(); len(missing) > 0 {
		return mesh.Refuse(FeatureMissing, "load or build what is named", "this kernel lacks %s", strings.Join(missing, "; "))
	}
	picked, err := cfg.Balancer.pick(sys.hasIPVS)
	if err != nil {
		return err
	}
	if err := refuseSecondAgent(cfg.Socket); err != nil {
		return err
	}
	boss, err := sys.supervisor()
	if err != nil {
		return err
	}
	// --- above: only reading; below: the machine is changed ---------------------
	store, content, err := openStore(cfg.DataDir)
	if err != nil {
		return err
	}
	defer closing(&err, store.close)
	machine, err := sys.openIn(cfg.RunDir)
	if err != nil {
		return err
	}
	defer closing(&err, machine.Close)
	own, err := ownNode(cfg, machine, content.ID)
	if err != nil {
		return err
	}
	starts, err := store.countStart()
	if err != nil {
		return err
	}
	events := newEvents(sys.now, starts, ringRoom)
	events.add(AgentStarted, "node "+own.Name, "version "+cfg.Version)
	cluster := newCluster(clusterConfig{
		Store: store, Own: own, Gossip: netip.AddrPortFrom(own.Addr, cfg.GossipPort), Key: content.Key, Now: sys.now, Events: events, Log: cfg.Log,
		KeyRotation: cfg.KeyRotation,
	}, content)
	status := newStatus(sys.now, events)
	ctx, cancel := context.WithCancel(ctx)
	loop := newLoop(cluster, machine, status, cfg.Log)
	loop.picked, loop.firewall, loop.lock = picked, mesh.Firewall(cfg.Firewall), cfg.Lock
	endpoints := &endpoints{
		cluster: cluster, loop: loop, status: status, store: store, watch: sys.watch, log: cfg.Log, ctx: ctx,
	}
	defer endpoints.close()
	defer cancel() // which ends the watchers that close waits for
	if err := endpoints.restore(machine, content.Lifetimes); err != nil {
		return err
	}
	defer closing(&err, cluster.close)
	if err := cluster.resume(); err != nil {
		return err
	}
	loop.names = newNames(ctx, cfg, cluster, machine, sys.resolv)
	defer loop.names.close()
	api := &api{
		config: cfg, cluster: cluster, loop: loop, status: status, endpoints: endpoints, events: events, agreement: &agreement{cluster: cluster}, inspect: sys.inspect,
		watched: newWatched(&looker{cluster: cluster, pulse: loop.pulse}, sys.now, starts, ringRoom),
	}
	answering, err := api.open()
	if err != nil {
		return err
	}
	r := &reporter{supervisor: boss, own: own.ID, status: status, now: sys.now, check: checkAPI(cfg.Socket), log: cfg.Log}
	cfg.Log.Info("the agent runs", "node", own.ID, "name", own.Name, "address", own.Addr, "socket", cfg.Socket, "balancer", picked.balancer, "why", picked.why)
	return together(ctx, loop.run, loop.pulse.run, loop.names.run, newMoves(cluster, machine, cfg.Log).run, newUnderlay(cluster, loop, cfg).run, cluster.renew, (&rotations{cluster: cluster}).run, api.agreement.run, api.watched.run, r.run, answering)
}

// openIn opens the kernel with what is pinned below the run directory, and makes that.
func (s system) openIn(runDir string) (Machine, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	machine, err := s.open(runDir)
	if err != nil {
		return nil, fmt.Errorf("open the kernel: %w", err)
	}
	return machine, nil
}

// together runs all tasks until ctx ends or one of them fails, and waits for every one.
func together(ctx context.Context, tasks ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, task := range tasks {
		group.Go(func() error { return task(ctx) })
	}
	return group.Wait()
}

// ownNode is this node as its configuration and its routing table describe it.
func ownNode(cfg Config, m Machine, id mesh.NodeID) (mesh.Node, error) {
	addr, mtu, err := m.Underlay(cfg.Advertise)
	if err != nil {
		return mesh.Node{}, fmt.Errorf("find this node's address: %w", err)
	}
	own := mesh.Node{ID: id, Name: cfg.Name, Addr: addr, GossipPort: cfg.GossipPort, VXLANPort: cfg.VXLANPort, MTU: mtu}
	return own, own.Validate()
}

func closing(err *error, f func() error) { *err = errors.Join(*err, f()) }
