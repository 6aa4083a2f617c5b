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

// A node gets the other balancer, again and again, under new connections, one at a time to
// each service: at most the one fails that is under way at the moment in which the rules
// change, so that there is no gap. Open connections to a service of one endpoint live on.
// What becomes of the others is told.
func TestSwitchBalancer(t *testing.T) {
	feature.Need(t, append(feature.Mesh(), feature.IPVS)...)
	b := newSwitchBed(t)
	b.apply(mesh.BalancerIPVS)
	const rounds = 3
	failed := map[uint16][]string{}
	var mu sync.Mutex
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, port := range []uint16{soloPort, pairPort} {
		group.Go(func() {
			b.dialOn(ctx, port, func(why string) {
				mu.Lock()
				defer mu.Unlock()
				failed[port] = append(failed[port], why)
			})
		})
	}
	for range rounds {
		for _, to := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
			b.switchTo(to)
			time.Sleep(200 * time.Millisecond)
		}
	}
	stop()
	group.Wait()
	known, err := b.node.Run(t.Context(), "cat", "/proc/sys/net/netfilter/nf_conntrack_count", "/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Error(err)
	}
	t.Logf("conntrack knows, and can know: %q", known)
	for port, why := range failed {
		t.Logf("port %d: under way at one of %d switches: %q", port, 2*rounds, why)
		if len(why) > 2*rounds {
			t.Errorf("%d new connections to port %d failed, more than one at each of %d switches: there is a gap", len(why), port, 2*rounds)
		}
	}
}

// delayedACKs is by when what was answered is acknowledged (TCP_DELACK_MAX is 200 ms): an open
// connection has no packet under way then.
const delayedACKs = 300 * time.Millisecond

// switchTo changes the balancer under open connections: half of them ask again afterwards,
// the others have asked before and wait for the answer, which comes afterwards.
func (b *switchBed) switchTo(to mesh.Balancer) {
	b.t.Helper()
	const each = 8
	gate := make(chan struct{})
	b.gate.Store(&gate)
	asking, waiting := map[uint16][]net.Conn{}, map[uint16][]net.Conn{}
	for _, port := range []uint16{soloPort, pairPort} {
		for range each {
			asking[port] = append(asking[port], b.open(port, ""))
			waiting[port] = append(waiting[port], b.open(port, "w"))
		}
	}
	time.Sleep(delayedACKs)
	b.restart()
	b.apply(to)
	close(gate)
	for _, port := range []uint16{soloPort, pairPort} {
		asked, waited := outcomes(asking[port], "x"), outcomes(waiting[port], "")
		b.t.Logf("to %s, open connections to port %d: asked again %v, waited %v", to, port, asked, waited)
		if port == soloPort && asked["answered"] < each-1 { // one may have had a packet under way
			b.t.Errorf("to %s: open connections to the one endpoint do not live on: %v", to, asked)
		}
	}
}

// switchBed is a node with its endpoints, and a client.
type switchBed struct {
	t      *testing.T
	run    string
	node   *space.Space
	client *space.Space
	k      *kernel.Kernel
	world  *scene.World
	gate   atomic.Pointer[chan struct{}] // what those who wait wait for
}

func newSwitchBed(t *testing.T) *switchBed {
	t.Helper()
	b := &switchBed{t: t, run: filepath.Join(t.TempDir(), "run"), world: scene.New(t, 3)}
	lan := newSpace(t, "lan")
	b.node, b.client = newSpace(t, "node"), newSpace(t, "client")
	if err := lan.Bridge("lan"); err != nil {
		t.Fatal(err)
	}
	for addr, at := range map[string]*space.Space{"192.0.2.11/24": b.node, "192.0.2.200/24": b.client} {
		if err := lan.Plug("lan", "to-"+filepath.Base(at.Path), at, "eth0", netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	b.start()
	t.Cleanup(func() {
		b.k.Apply(context.Background(), &plan.Plan{})
		b.k.Close()
	})
	solo := b.world.Service("solo", nil, scene.Port(soloPort, 80, mesh.TCP))
	pair := b.world.Service("pair", nil, scene.Port(pairPort, 80, mesh.TCP))
	for name, of := range map[string]mesh.ServiceID{"solo.1": solo, "pair.1": pair, "pair.2": pair} {
		e := b.world.Endpoint(of, name, 1)
		work := newSpace(t, name)
		if err := b.k.Pin(plan.EndpointSandbox(string(e.ID)), work.Path); err != nil {
			t.Fatal(err)
		}
		b.serve(work)
	}
	return b
}

// start opens the node's kernel as an agent does.
func (b *switchBed) start() {
	b.t.Helper()
	err := b.node.Do(func() (err error) {
		b.k, err = kernel.New(b.run)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// restart forgets all that is known of the kernel, as an agent that ends.
func (b *switchBed) restart() {
	b.t.Helper()
	if err := b.k.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// serve answers a byte at once, or where it is a w, when the gate opens.
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
					if word[0] == 'w' {
						<-*b.gate.Load()
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

func (b *switchBed) dial(port uint16) (net.Conn, error) {
	return b.dialBy(&net.Dialer{Timeout: answerWait}, port)
}

func (b *switchBed) dialBy(d *net.Dialer, port uint16) (c net.Conn, err error) {
	err = b.client.Do(func() error {
		c, err = d.Dial("tcp4", fmt.Sprintf("192.0.2.11:%d", port)) //nolint:noctx // as above
		return err
	})
	return c, err
}

// open is a connection that was answered once, and then sent a word, if any.
func (b *switchBed) open(port uint16, word string) net.Conn {
	b.t.Helper()
	c, err := b.dial(port)
	if err == nil {
		err = ask(c, "x")
	}
	if err == nil && word != "" {
		_, err = c.Write([]byte(word))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// ask sends a byte, where there is one, and waits for one.
func ask(c net.Conn, word string) error {
	if err := c.SetDeadline(time.Now().Add(answerWait)); err != nil {
		return err
	}
	if word != "" {
		if _, err := c.Write([]byte(word)); err != nil {
			return err
		}
	}
	var answer [1]byte
	_, err := io.ReadFull(c, answer[:])
	return err
}

// answerWait is long enough for packets that were lost to be sent again.
const answerWait = 10 * time.Second

// outcomes are how connections went on.
func outcomes(all []net.Conn, word string) map[string]int {
	ended := map[string]int{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, c := range all {
		group.Go(func() {
			how := describe(ask(c, word))
			_ = c.Close() // nothing more is asked
			mu.Lock()
			defer mu.Unlock()
			ended[how]++
		})
	}
	group.Wait()
	return ended
}

func describe(err error) string {
	switch {
	case err == nil:
		return "answered"
	case errors.Is(err, syscall.ECONNRESET):
		return syscall.ECONNRESET.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	default:
		return err.Error()
	}
}

// dialOn asks on one new connection after the other.
func (b *switchBed) dialOn(ctx context.Context, port uint16, failed func(why string)) {
	total := 0
	for ctx.Err() == nil {
		c, err := b.dial(port)
		if err == nil {
			err = ask(c, "x")
			_ = c.Close() // nothing more is asked
		}
		if total++; err != nil {
			b.t.Logf("port %d: %v", port, err)
			failed(describe(err))
		}
	}
	b.t.Logf("port %d: %d new connections", port, total)
}
