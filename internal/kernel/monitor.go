package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/plan"
)

// The monitor hears from the kernel that something of ours was changed, so that
// it is put back within a moment and not at the next periodic look. It never
// says what to do: a round compares the whole.
//
//	rtnetlink groups, nft group      of the host and of every sandbox
//	/proc/self/mountinfo             sandboxes that come, go, or are unmounted
//
// IPVS and most settings send no events; those are found by the periodic look.
// Our own changes are events too. They are left out where the kernel says that
// they are ours. Where it does not, they are kept until the round has ended and
// cost one more look: it changes nothing, so there is no third.
const (
	driftSettle = 20 * time.Millisecond  // after the first event: a burst becomes one signal
	driftPause  = 200 * time.Millisecond // between two signals, however many events come
	driftLimit  = 256                    // drifts in a signal that name who made them; bounds what a storm keeps
	watchAgain  = time.Second            // until what could not be watched is tried again
)

// Drift is a change of something that is ours, or that may be, which no round is
// known to have made.
type Drift struct {
	Sandbox string
	Kind    string // of the object: namespace, links, addr, neigh, fdb, route, rule, sysctl, nft, passage, user; "" for anything: events were lost
	By      string // who made it, "nft (pid 4711)"; "" where the kernel does not say
}

// Drifted carries what was changed, in the order heard, at most a few times a
// second. What is not taken is kept and added to. It is never closed.
func (k *Kernel) Drifted() <-chan []Drift { return k.monitor.signals }

// monitor is one goroutine that waits at all sockets at once. newMonitor starts
// it, close ends it and waits.
type monitor struct {
	host    *namespace
	dir     string // where sandboxes are mounted
	own     *writers
	signals chan []Drift  // holds one at most; only run sends
	lost    chan struct{} // holds one token where the host lost an address
	moved   chan struct{} // holds one token where addresses, devices or default routes of the host changed
	done    chan struct{}

	held   atomic.Bool // a round is under way
	ending atomic.Bool
	wake   int // eventfd: written to when one of these has changed
	mounts int // /proc/self/mountinfo

	watched map[string]*watcher // by sandbox
	again   bool                // something could not be watched
	buffer  []byte
	pending []Drift
	due     time.Time // of the next signal, where something is pending
	last    time.Time // of the last signal
}

// newMonitor watches the host and the sandboxes that are mounted below dir.
func newMonitor(host *namespace, dir string, own *writers) (*monitor, error) {
	m := &monitor{
		host: host, dir: dir, own: own, signals: make(chan []Drift, 1), lost: make(chan struct{}, 1), moved: make(chan struct{}, 1), done: make(chan struct{}), wake: -1, mounts: -1,
		watched: map[string]*watcher{}, buffer: make([]byte, receiveRoom),
	}
	var err error
	if m.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	if m.mounts, err = unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		m.closeFiles()
		return nil, fmt.Errorf("open mountinfo: %w", err)
	}
	if err = m.add(host.name, host.kind, host.fd, host.id); err != nil {
		m.closeFiles()
		return nil, err
	}
	m.follow()
	m.pending = nil // that they are there is no news
	go m.run()
	return m, nil
}

func (m *monitor) close() {
	m.ending.Store(true)
	m.awake()
	<-m.done
	m.closeFiles()
}

// hold keeps signals back until release is called: a round is under way.
func (m *monitor) hold() { m.held.Store(true) }

func (m *monitor) release() {
	m.held.Store(false)
	m.awake()
}

func (m *monitor) awake() {
	one := [8]byte{1}
	_, _ = unix.Write(m.wake, one[:]) // a counter that never is near its limit
}

func (m *monitor) closeFiles() {
	for _, w := range m.watched {
		w.close()
	}
	closeFile(m.mounts)
	closeFile(m.wake)
}

func closeFile(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // nothing was written to it
	}
}

func (m *monitor) run() {
	defer close(m.done)
	for {
		watchers, files := m.files()
		n, err := unix.Poll(files, m.timeout(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Out of memory at worst. The periodic look goes on meanwhile.
			time.Sleep(driftPause)
		}
		if m.ending.Load() {
			return
		}
		if n > 0 {
			for i, w := range watchers {
				m.hear(w, files[2+2*i], files[3+2*i])
			}
		}
		if files[1].Revents != 0 || m.again && n == 0 {
			m.follow()
		}
		if files[0].Revents != 0 {
			var count [8]byte
			_, _ = unix.Read(m.wake, count[:]) // only that it was written to counts
			m.postpone(time.Now().Add(driftSettle))
		}
		m.signal(time.Now())
	}
}

// files are what run waits at: wake, mounts, and two sockets of each watcher.
func (m *monitor) files() ([]*watcher, []unix.PollFd) {
	files := []unix.PollFd{{Fd: int32(m.wake), Events: unix.POLLIN}, {Fd: int32(m.mounts), Events: unix.POLLPRI}}
	var watchers []*watcher
	for _, w := range m.watched {
		watchers = append(watchers, w)
		files = append(files, unix.PollFd{Fd: int32(w.route), Events: unix.POLLIN}, unix.PollFd{Fd: int32(w.nft), Events: unix.POLLIN})
	}
	return watchers, files
}

// timeout is how long run may wait for events, in poll's form.
func (m *monitor) timeout(now time.Time) int {
	const forEver = -1
	switch {
	case len(m.pending) > 0 && !m.held.Load():
		return int((max(m.due.Sub(now), 0) + time.Millisecond - 1) / time.Millisecond)
	case m.again:
		return int(watchAgain / time.Millisecond)
	default:
		return forEver
	}
}

// hear takes in the events of one sandbox. A socket that fails is given up and
// opened anew: nobody knows what it would have told.
func (m *monitor) hear(w *watcher, route, nft unix.PollFd) {
	var err error
	if route.Revents != 0 {
		err = w.hearRoute(m.buffer, m.note, m.hearUnderlay)
	}
	if err == nil && nft.Revents != 0 {
		err = w.hearNFT(m.buffer, m.own, m.note)
	}
	if err != nil {
		w.close()
		delete(m.watched, w.name)
		m.again = true
		m.note(Drift{Sandbox: w.name})
	}
}

// hearUnderlay tells of what the host is reached by, or of events that may have told so.
func (m *monitor) hearUnderlay(u underlayEvent) {
	if u.lost {
		token(m.lost)
	}
	if u.lost || u.moved {
		token(m.moved)
	}
}

// token wakes the receiver once, however often it is told.
func token(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// note keeps a drift for the next signal.
func (m *monitor) note(d Drift) {
	if len(m.pending) >= driftLimit {
		d.By = ""
	}
	if slices.Contains(m.pending, d) {
		return
	}
	if len(m.pending) == 0 {
		m.due = m.last.Add(driftPause)
		m.postpone(time.Now().Add(driftSettle))
	}
	m.pending = append(m.pending, d)
}

// postpone lets no signal out before then.
func (m *monitor) postpone(then time.Time) {
	if m.due.Before(then) {
		m.due = then
	}
}

// signal sends what is pending once it is due, with what was not taken yet.
func (m *monitor) signal(now time.Time) {
	if len(m.pending) == 0 || m.held.Load() || now.Before(m.due) {
		return
	}
	all := m.pending
	select {
	case before := <-m.signals:
		for _, d := range m.pending {
			if len(before) >= driftLimit {
				d.By = ""
			}
			if !slices.Contains(before, d) {
				before = append(before, d)
			}
		}
		all = before
	default:
	}
	m.signals <- all // has room: nobody else sends
	m.pending, m.last = nil, now
}

// follow watches the sandboxes that are mounted now, and notes which came and went.
func (m *monitor) follow() {
	m.again = false
	if m.watched[plan.HostSandbox] == nil && m.add(m.host.name, m.host.kind, m.host.fd, m.host.id) != nil {
		m.again = true
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil && !os.IsNotExist(err) {
		m.again = true
		return
	}
	here := map[string]bool{plan.HostSandbox: true}
	for _, e := range entries {
		if kind, ours := kindOf(e.Name()); ours {
			here[e.Name()] = m.watch(e.Name(), kind)
		}
	}
	for name, w := range m.watched {
		if !here[name] {
			w.close()
			delete(m.watched, name)
			m.note(Drift{Sandbox: name, Kind: kindNamespace})
		}
	}
}

// watch watches a sandbox where it does not yet, and tells whether it does.
func (m *monitor) watch(name string, kind plan.Kind) bool {
	path := filepath.Join(m.dir, name)
	known := m.watched[name]
	var st unix.Stat_t
	if known != nil && unix.Stat(path, &st) == nil && known.id == (nsID{st.Dev, st.Ino}) {
		return true
	}
	fd, id, err := openFile(path)
	if err != nil {
		m.again = m.again || !absent(err)
		return false
	}
	defer fd.Close()
	if known != nil {
		known.close()
		delete(m.watched, name)
	}
	if m.add(name, kind, fd, id) != nil {
		m.again = true
		return false
	}
	return true
}

// add begins to watch a namespace. What happened before is unknown, so that is a
// drift too.
func (m *monitor) add(name string, kind plan.Kind, fd netns.NsHandle, id nsID) error {
	w, err := newWatcher(name, kind, fd, id)
	if err != nil {
		return err
	}
	m.watched[name] = w
	m.note(Drift{Sandbox: name, Kind: kindNamespace})
	return nil
}

// newWatcher opens both sockets in a namespace.
func newWatcher(name string, kind plan.Kind, fd netns.NsHandle, id nsID) (*watcher, error) {
	w := &watcher{name: name, kind: kind, id: id, route: -1, nft: -1, links: map[int32]seenLink{}}
	err := within(fd, func() (err error) {
		if w.route, err = subscribe(unix.NETLINK_ROUTE, routeGroups()...); err != nil {
			return err
		}
		w.nft, err = subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			w.nft, err = -1, nil // no nf_tables in this kernel, and so nothing to hear
		}
		return err
	})
	if err == nil {
		err = w.askLinks()
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("watch sandbox %s: %w", name, err)
	}
	return w, nil
}
