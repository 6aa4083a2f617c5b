package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/mesh"
)

// ResetConfig says which agent's traces to remove. The zero value of each field
// stands for the agent's own default.
type ResetConfig struct {
	DataDir string
	RunDir  string
	Log     *slog.Logger
}

// ResetReport is what a Reset did and could not do.
type ResetReport struct {
	kernel.ResetReport
	Files []string // removed
}

// resettable is what Reset needs of the kernel. Implemented by *kernel.Kernel.
type resettable interface {
	Reset(ctx context.Context) (kernel.ResetReport, error)
	Close() error
}

// Reset takes this node out of its cluster and leaves nothing of sluice on this
// host: neither in the kernel, whose settings get their earlier values, nor in the
// run directory and the data directory. It refuses while an agent runs there. What
// fails is reported and the rest still done; calling again goes on.
func Reset(ctx context.Context, cfg ResetConfig) (*ResetReport, error) {
	return reset(ctx, cfg, func(runDir string) (resettable, error) {
		k, err := kernel.New(runDir)
		if err != nil {
			return nil, err // not k: a nil *Kernel would be a resettable that is not nil
		}
		return k, nil
	})
}

func reset(ctx context.Context, rc ResetConfig, open func(runDir string) (resettable, error)) (report *ResetReport, err error) {
	// The name is nothing that a reset uses.
	cfg, err := Config{DataDir: rc.DataDir, RunDir: rc.RunDir, Log: rc.Log, Name: "reset"}.complete()
	if err != nil {
		return nil, err
	}
	if answers(cfg.Socket) {
		return nil, mesh.Refuse(RunDirInUse, "stop it first, or give another --run-dir", "an agent runs and answers on %s", cfg.Socket)
	}
	machine, err := open(cfg.RunDir)
	if err != nil {
		return nil, fmt.Errorf("open the kernel: %w", err)
	}
	defer closing(&err, machine.Close)
	report = &ResetReport{}
	// The store is held to the end, so that no agent starts meanwhile.
	store, content, err := existingStore(cfg.DataDir)
	switch {
	case mesh.ReasonOf(err) == DataDirInUse:
		return nil, err
	case mesh.ReasonOf(err) == DataVersion:
		// Nobody can be told in the name of a cluster whose keys cannot be read.
		if err := report.removeStore(cfg); err != nil {
			return report, err
		}
	case err != nil:
		report.leave(cfg.DataDir, "it cannot be read (%v)", err)
	case store != nil:
		defer closing(&err, store.close)
		if err := report.forget(ctx, cfg, store, content); err != nil {
			return report, err
		}
	}
	made, err := machine.Reset(ctx)
	report.take(made)
	if err != nil {
		return report, err
	}
	if err := report.unlink(resolvConfs{hostFiles(), managedConf(cfg.RunDir)}); err != nil {
		return report, err
	}
	return report, report.clear(cfg)
}

func (r *ResetReport) removeStore(cfg Config) error {
	file := filepath.Join(cfg.DataDir, storeName)
	if err := os.Remove(file); err != nil {
		return fmt.Errorf("remove the store: %w", err)
	}
	r.Files = append(r.Files, file)
	return nil
}

func (r *ResetReport) leave(object, why string, args ...any) {
	r.Left = append(r.Left, kernel.Left{Object: object, Why: fmt.Sprintf(why, args...)})
}

func (r *ResetReport) take(made kernel.ResetReport) {
	made.Left = append(r.Left, made.Left...)
	r.ResetReport = made
}

// existingStore opens the store where there is one; otherwise all is nil.
func existingStore(dir string) (*store, *saved, error) {
	if _, err := os.Stat(filepath.Join(dir, storeName)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	return openStore(dir)
}

// forget ends the membership and removes the store. The node's identity is kept
// where the other nodes do not know that it went: should it join again, they
// then take it for the same node and not for one more.
func (r *ResetReport) forget(ctx context.Context, cfg Config, s *store, content *saved) error {
	file := filepath.Join(cfg.DataDir, storeName)
	told := farewell(ctx, cfg, s, content)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	if told != nil {
		r.leave("cluster", "the other nodes could not be told that this one goes (%v)", told)
		r.leave(file, "it holds nothing but this node's identity, for another join")
		return s.dropMembership()
	}
	return r.removeStore(cfg)
}

// farewellLimit is how long it may take to tell the other nodes.
const farewellLimit = 15 * time.Second

// farewell tells the other nodes that this one and its endpoints are gone.
func farewell(ctx context.Context, cfg Config, s *store, content *saved) (err error) {
	self := mesh.Key{Kind: mesh.KindNode, ID: string(content.ID)}
	var own mesh.Node
	for _, r := range content.Records {
		if r.Key() == self && r.Node != nil {
			own = *r.Node
		}
	}
	if content.Member == nil || own.ID == "" {
		return nil
	}
	c := newCluster(clusterConfig{
		Store: s, Own: own, Gossip: netip.AddrPortFrom(own.Addr, cmp.Or(own.GossipPort, cfg.GossipPort)), Key: content.Key, Now: time.Now, Log: cfg.Log,
	}, content)
	peers := c.Peers()
	if len(peers) == 0 {
		return nil
	}
	g, err := c.startGossip(content.Member)
	if err != nil {
		return err
	}
	c.members = g // before anybody else knows c
	defer closing(&err, c.close)
	ctx, cancel := context.WithTimeout(ctx, farewellLimit)
	defer cancel()
	met, err := meetOne(ctx, g.Join, peers)
	if err != nil {
		return err
	}
	if _, err := c.update(c.ownTombstones); err != nil {
		return err
	}
	// A datagram may be lost; a second exchange of records is certain.
	_, err = g.Join(ctx, met)
	return err
}

// meetOne joins the first peer that answers.
func meetOne(ctx context.Context, join func(context.Context, ...netip.AddrPort) (int, error), peers []netip.AddrPort) (met netip.AddrPort, err error) {
	for _, met = range peers {
		if _, err = join(ctx, met); err == nil || ctx.Err() != nil {
			return met, err
		}
	}
	return met, err
}

// ownTombstones delete this node and its endpoints.
func (c *cluster) ownTombstones(snap *mesh.Snapshot) ([]mesh.Record, error) {
	records := []mesh.Record{tombstone(mesh.NodeRecord(&c.own))}
	for _, e := range snap.Local(c.own.ID) {
		records = append(records, tombstone(mesh.EndpointRecord(e)))
	}
	return records, nil
}

// unlink takes away the resolv.conf of endpoints.
func (r *ResetReport) unlink(c resolvConfs) error {
	removed, err := c.unlink(func(string) bool { return true })
	r.Files = append(r.Files, removed...)
	switch failed := os.Remove(c.managed); {
	case failed == nil:
		r.Files = append(r.Files, c.managed)
	case !errors.Is(failed, fs.ErrNotExist):
		err = errors.Join(err, fmt.Errorf("remove resolv.conf: %w", failed))
	}
	return err
}

// clear empties the run directory of what the agent makes there, and names the rest.
func (r *ResetReport) clear(cfg Config) error {
	for _, file := range []string{cfg.Socket, cfg.Socket + socketMaking} {
		err := os.Remove(file)
		if err == nil {
			r.Files = append(r.Files, file)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the socket: %w", err)
		}
	}
	entries, err := os.ReadDir(cfg.RunDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the run directory: %w", err)
	}
	for _, e := range entries {
		if !kernel.OwnFile(e.Name()) { // those it has named itself
			r.leave(filepath.Join(cfg.RunDir, e.Name()), "sluice did not make it")
		}
	}
	return nil
}
