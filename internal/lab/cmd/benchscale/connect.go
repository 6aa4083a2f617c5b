package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// serve accepts connections in the endpoints' namespaces until stop is called.
func (m *measuring) serve() (stop func(), err error) {
	var group sync.WaitGroup
	var listeners []net.Listener
	stop = func() {
		for _, l := range listeners {
			_ = l.Close() // which ends its goroutine
		}
		group.Wait()
	}
	for _, w := range m.work {
		err := w.Do(func() error {
			l, err := net.Listen("tcp4", ":80") //nolint:noctx // in the calling thread's namespace, at once
			if err == nil {
				listeners = append(listeners, l)
			}
			return err
		})
		if err != nil {
			stop()
			return nil, err
		}
	}
	for _, l := range listeners {
		group.Go(func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_ = c.Close() // nothing was sent
				}
			}
		})
	}
	return stop, nil
}

// times are how long connections took, sorted.
type times []time.Duration

func (t times) at(percent int) string { return short(t[(len(t)-1)*percent/100]) }

// dialler is one of several nodes that connections are opened to, and the port that is dialled.
type dialler struct {
	*measuring
	port uint16
	name string
}

// turns is how often each node is dialled for a while.
const turns = 20

// compare takes turns, so that all have the same of what else the machine has to do.
func compare(ctx context.Context, out *figures, nodes []*dialler) error {
	took := make([]times, len(nodes))
	for _, n := range nodes {
		stop, err := n.serve()
		if err != nil {
			return err
		}
		defer stop()
	}
	for range turns {
		for i, n := range nodes {
			t, err := n.connect(ctx, n.port, n.connections/turns)
			if err != nil {
				return err
			}
			took[i] = append(took[i], t...)
		}
	}
	for i, n := range nodes {
		slices.Sort(took[i])
		out.add(n.name+": p50, p99", "%s, %s", took[i].at(50), took[i].at(99))
	}
	return nil
}

// connect opens connections to a port, one after the other, by plain
// blocking calls: what is measured is the way, not this program.
func (m *measuring) connect(ctx context.Context, port uint16, count int) (t times, err error) {
	to := netip.AddrPortFrom(netip.MustParseAddr(nodeAddr), port)
	err = m.client.Do(func() error {
		for range count {
			took, err := dial(to)
			if err != nil {
				return fmt.Errorf("connect to %s: %w", to, err)
			}
			if t = append(t, took); ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	return t, err
}

func dial(to netip.AddrPort) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	began := time.Now()
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	return time.Since(began), err
}

// kernelMemory is what the kernel itself has taken of the memory, in bytes: objects
// that it cannot give back, and tables too large for those.
func kernelMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var sum int64
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "SUnreclaim:" && f[0] != "VmallocUsed:" && f[0] != "Percpu:" {
			continue
		}
		kb, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read /proc/meminfo: %w", err)
		}
		sum += kb << 10
	}
	return sum, nil
}
