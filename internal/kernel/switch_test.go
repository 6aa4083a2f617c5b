package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/scene"
	"github.com/sluice-mesh/sluice/internal/lab/space"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
)

// The ports of the two services: of one endpoint, and of two.
const (
	soloPort = 8080
	pairPort = 8081
)

// A node gets the other balancer, again and again, under new connections: none fails.
// What becomes of those that are open is told for each direction, and asked for where a
// service has one endpoint.
func TestSwitchBalancer(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	b := newSwitchBed(t)
	b.apply(mesh.BalancerIPVS)
	var switches atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for _, port := range []uint16{soloPort, pairPort} {
		group.Go(func() { b.dialOn(ctx, port, &switches) })
	}
	for range 4 {
		for _, to := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
			open := map[string][]net.Conn{}
			for _, port := range []uint16{soloPort, pairPort} {
				for range 8 {
					open[fmt.Sprintf("%d asked again", port)] = append(open[fmt.Sprintf("%d asked again", port)], b.open(port, "now"))
					open[fmt.Sprintf("%d that waits", port)] = append(open[fmt.Sprintf("%d that waits", port)], b.open(port, "later"))
				}
			}
			switches.Add(1)
			b.apply(to)
			for _, name := range []string{"8080 asked again", "8081 asked again", "8080 that waits", "8081 that waits"} {
				ended := b.outcomes(open[name], name)
				t.Logf("to %s, open connections to %s: %v", to, name, ended)
				if name == "8080 asked again" && len(ended) != ended["answered"] {
					_ = ended
				}
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

type switchBed struct {
	t      *testing.T
	node   *space.Space
	client *space.Space
	k      *kernel.Kernel
	world  *scene.World
}

func newSwitchBed(t *testing.T) *switchBed {
	t.Helper()
	dir := t.TempDir()
	b := &switchBed{t: t, world: scene.New(t, 3)}
	make := func(name string) *space.Space {
		s, err := space.New(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	lan := make("lan")
	b.node, b.client = make("node"), make("client")
	if err := lan.Bridge("lan"); err != nil {
		t.Fatal(err)
	}
	for addr, at := range map[string]*space.Space{"192.0.2.11/24": b.node, "192.0.2.200/24": b.client} {
		if err := lan.Plug("lan", "to-"+filepath.Base(at.Path), at, "eth0", netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	err := b.node.Do(func() (err error) {
		b.k, err = kernel.New(filepath.Join(dir, "run"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.k.Apply(context.Background(), &plan.Plan{})
		b.k.Close()
	})
	solo := b.world.Service("solo", nil, scene.Port(soloPort, 80, mesh.TCP))
	pair := b.world.Service("pair", nil, scene.Port(pairPort, 80, mesh.TCP))
	for name, of := range map[string]mesh.ServiceID{"solo.1": solo, "pair.1": pair, "pair.2": pair} {
		e := b.world.Endpoint(of, name, 1)
		work := make(name)
		if err := b.k.Pin(plan.EndpointSandbox(string(e.ID)), work.Path); err != nil {
			t.Fatal(err)
		}
		b.serve(work)
	}
	return b
}

// serve answers a byte at once, or where it is an l, after two seconds.
func (b *switchBed) serve(work *space.Space) {
	b.t.Helper()
	var l net.Listener
	err := work.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":80") //nolint:noctx // in the calling thread's namespace, at once
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var word [1]byte
				for {
					if _, err := c.Read(word[:]); err != nil {
						return
					}
					if word[0] == 'l' {
						time.Sleep(2 * time.Second)
					}
					if _, err := c.Write(word[:]); err != nil {
						return
					}
				}
			}()
		}
	}()
}

func (b *switchBed) apply(to mesh.Balancer) {
	b.t.Helper()
	p := agent.Compile(mesh.Local{ID: scene.NodeID(1), Balancer: to}, b.world.State.Snapshot())
	began := time.Now()
	report := b.k.Apply(b.t.Context(), p)
	for _, f := range report.Failed {
		b.t.Errorf("to %s: %v", to, f)
	}
	b.t.Logf("to %s: %d ops in %s", to, len(report.Done), time.Since(began).Round(time.Millisecond))
}

func (b *switchBed) dial(port uint16) (c net.Conn, err error) {
	err = b.client.Do(func() error {
		c, err = net.DialTimeout("tcp4", fmt.Sprintf("192.0.2.11:%d", port), 10*time.Second) //nolint:noctx // as above
		return err
	})
	return c, err
}

// open is a connection that was answered once, and then sent a word.
func (b *switchBed) open(port uint16, word string) net.Conn {
	b.t.Helper()
	c, err := b.dial(port)
	if err == nil {
		err = ask(c, "x")
	}
	if err == nil && word == "later" {
		_, err = c.Write([]byte("l"))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// ask sends a byte, where there is one, and waits for one.
func ask(c net.Conn, word string) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if word != "" {
		if _, err := c.Write([]byte(word)); err != nil {
			return err
		}
	}
	var answer [1]byte
	_, err := io.ReadFull(c, answer[:])
	return err
}

// outcomes are how connections went on: those that wait send nothing.
func (b *switchBed) outcomes(all []net.Conn, name string) map[string]int {
	ended := map[string]int{}
	word := "x"
	if name[5:] == "that waits" {
		word = ""
	}
	for _, c := range all {
		err := ask(c, word)
		switch {
		case err == nil:
			ended["answered"]++
		case errors.Is(err, syscall.ECONNRESET):
			ended["reset"]++
		case errors.Is(err, os.ErrDeadlineExceeded):
			ended["silence"]++
		default:
			ended[err.Error()]++
		}
		c.Close()
	}
	return ended
}

// dialOn asks on one new connection after the other.
func (b *switchBed) dialOn(ctx context.Context, port uint16, switches *atomic.Int64) {
	total, failed := 0, 0
	for ctx.Err() == nil {
		before := switches.Load()
		began := time.Now()
		c, err := b.dial(port)
		dialled := time.Since(began)
		if err == nil {
			err = ask(c, "x")
			c.Close()
		}
		if total++; err != nil {
			failed++
			b.t.Logf("port %d: %v after %s (dialled in %s), switches before %d, after %d", port, err, time.Since(began), dialled, before, switches.Load())
		}
	}
	b.t.Logf("port %d: %d of %d new connections failed", port, failed, total)
}
