package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// bed is one node and a client on a link. The node has the address that node n1 of a
// crowd has, so that its plan fits.
type bed struct {
	dir    string
	lan    *space.Space
	node   *space.Space
	client *space.Space
	kernel *kernel.Kernel
	work   map[string]*space.Space // the endpoints' namespaces, by sandbox
}

// The addresses of the node and the client.
const (
	nodeAddr   = "192.0.2.11"
	clientAddr = "192.0.2.200"
)

func newBed() (b *bed, err error) {
	b = &bed{work: map[string]*space.Space{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "sluice-scale-"); err != nil {
		return b, err
	}
	for name, where := range map[string]**space.Space{"lan": &b.lan, "node": &b.node, "client": &b.client} {
		if *where, err = space.New(filepath.Join(b.dir, name)); err != nil {
			return b, err
		}
	}
	if err = b.lan.Bridge("lan"); err != nil {
		return b, err
	}
	for name, at := range map[string]*space.Space{nodeAddr: b.node, clientAddr: b.client} {
		addr := netip.PrefixFrom(netip.MustParseAddr(name), 24)
		if err = b.lan.Plug("lan", "to-"+filepath.Base(at.Path), at, "eth0", addr); err != nil {
			return b, err
		}
	}
	err = b.node.Do(func() error {
		b.kernel, err = kernel.New(filepath.Join(b.dir, "run"))
		return err
	})
	return b, err
}

// pin makes the namespaces of the plan's endpoints where they are not there, and pins them.
func (b *bed) pin(p *plan.Plan) error {
	for _, s := range p.Sandboxes {
		if s.Kind != plan.KindEndpoint {
			continue
		}
		if b.work[s.Name] == nil {
			w, err := space.New(filepath.Join(b.dir, s.Name))
			if err != nil {
				return err
			}
			b.work[s.Name] = w
		}
		if err := b.kernel.Pin(s.Name, b.work[s.Name].Path); err != nil {
			return err
		}
	}
	return nil
}

// close takes everything away.
func (b *bed) close() error {
	var errs []error
	if b.kernel != nil {
		errs = append(errs, b.node.Do(func() error {
			_, err := b.apply(&plan.Plan{})
			return errors.Join(err, b.kernel.Close())
		}))
	}
	all := []*space.Space{b.lan, b.node, b.client}
	for _, w := range b.work {
		all = append(all, w)
	}
	for _, s := range all {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clear up: %w", err)
	}
	return nil
}
