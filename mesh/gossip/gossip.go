// Package gossip carries records between the nodes and tells which nodes are
// alive. It is the only one that knows memberlist.
//
//	Send -> one datagram to each member -> gossip -> exchange   (out: fast, then sure)
//	datagram, stream, exchange -> decode, check -> State.Merge  (in)
//	                               what was new -> gossip       (on to the others)
//
// Everything goes by one port. memberlist's packets and streams are sealed with one key
// that all members have, and tell who is a member. Exchanges, which compare the records of
// two nodes by digest, go by streams that Secure protects. A member that is no node of
// sluice is let be, and gets no records. Whoever a record comes by, it counts where Verifier
// knows its writer's signature.
package gossip

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/sluice-mesh/sluice/mesh"
)

// The reasons of this package's refusals.
const (
	PortInUse      mesh.Reason = "PortInUse"
	Unreachable    mesh.Reason = "Unreachable"
	WrongSecret    mesh.Reason = "WrongSecret"
	UnknownVersion mesh.Reason = "UnknownVersion"
	Closed         mesh.Reason = "Closed"
	Busy           mesh.Reason = "Busy"
	BadFrame       mesh.Reason = "BadFrame"
	TooManyMembers mesh.Reason = "TooManyMembers"
	Replayed       mesh.Reason = "Replayed"
)

// State is what gossip carries and tells. Implementations are safe for concurrent
// use and do not call back into Gossip while inside.
type State interface {
	// Root, Count, Buckets and Heads tell what records there are, tombstones included; see
	// mesh.State.
	Root() mesh.Sum
	Count() int
	Buckets() [mesh.BucketCount]mesh.Sum
	Heads(bucket uint8) []mesh.Head
	// Now is told to other nodes: none of this node's later writes is at or before it. Met
	// takes another node's, from when it held exactly what this one does.
	Now() uint64
	Met(id mesh.NodeID, until uint64)
	// Select returns the records of those keys that there are. A peer chose the keys.
	Select(keys []mesh.Key) []mesh.Record
	// Merge takes the valid records of one message and returns those that
	// changed the state: only they are passed on. A record that says it was written by
	// this node comes here too: a node that lost its disk learns its own past so.
	Merge(records []mesh.Record) (fresh []mesh.Record)
	// FlowsOver takes a node's word that flows which came by it are over.
	FlowsOver(over mesh.Over)
	// MemberAlive tells that another node was found alive.
	MemberAlive(id mesh.NodeID)
	// MemberSilent tells that a node that was alive failed or left. Its silence
	// does not mean that its data path is dead.
	MemberSilent(id mesh.NodeID)
	// Peers returns the gossip addresses of nodes that should be members. Those that
	// are not are tried again, so that a split that has healed ends.
	Peers() []netip.AddrPort
	// Nodes returns the IDs of the nodes of the records. They become members, whoever else
	// there is.
	Nodes() []mesh.NodeID
}

// Config is what Start needs. All fields of the first part are required.
type Config struct {
	ID    mesh.NodeID
	Bind  netip.AddrPort // address and port that other nodes reach, UDP and TCP
	Key   []byte         // KeySize bytes; packets and streams are sealed with it (AES-256-GCM); see SetKeys
	State State
	Log   *slog.Logger

	Read [][]byte // keys that others may still, or already, send with

	Detection Detection        // zero: Fast
	Wall      func() time.Time // the clock by which State refuses records of the future; nil: the host's

	Network  Network  // nil: the host's
	Secure   Secure   // of exchanges; nil: they are sealed with Key, and who holds it may be any node
	Verifier Verifier // looks at every record that comes in; nil: records are not signed
	Signer   Signer   // of words that are no records; nil: they are not signed
}

// KeySize is the length of Config.Key.
const KeySize = 32

// Gossip is a running member. Its methods are safe for concurrent use.
type Gossip struct {
	id      mesh.NodeID
	self    netip.AddrPort
	state   State
	book    *logbook
	members *members
	queue   *queue
	in      *delegate
	small   *outbox // records on their way into packets
	large   *outbox // records on their way into streams
	entropy *entropy
	census  census
	signer  Signer
	said    *numbers
	link    *transport
	list    *memberlist.Memberlist
	ring    *memberlist.Keyring
	keying  sync.Mutex // held while ring changes

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	leaving   context.Context // ends with Leave
	setLeaves context.CancelFunc

	mu     sync.Mutex // of closed, and of Add on tasks before Wait
	closed bool
	tasks  sync.WaitGroup
}

// Start listens and begins to gossip, alone until Join or until a peer of
// State.Peers is reached. It refuses a port that is in use (PortInUse), an
// address that is not this host's (BadAddress) and a wrong Config (BadValue).
func Start(cfg Config) (*Gossip, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Gossip{
		id: cfg.ID, self: cfg.Bind, state: cfg.State, book: newLogbook(cfg.Log),
		members: newMembers(cfg.ID), small: newOutbox(), large: newOutbox(), signer: cfg.Signer, entropy: newEntropy(cfg.secure(), cfg.Wall),
	}
	var err error
	if g.ring, err = cfg.ring(); err != nil {
		return nil, err
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.leaving, g.setLeaves = context.WithCancel(g.ctx)
	g.queue = newQueue(g.members.count)
	g.in = newDelegate(cfg, g.queue, g.book)
	g.said = newNumbers(cfg.State.Now())
	if g.link, err = listen(g.ctx, cfg.network(), cfg.Bind, g.book, g.serve); err != nil {
		g.cancel()
		return nil, err
	}
	g.expect()
	if g.list, err = memberlist.Create(g.settings(cfg, g.link)); err != nil {
		g.cancel()
		_ = g.link.Shutdown() // the first error is the one to tell
		return nil, mesh.Refuse(mesh.BadValue, "see the agent's log", "gossip does not start on %s: %v", cfg.Bind, err)
	}
	for _, task := range []func(){g.receive, g.tellMembers, g.tellStay, g.sendSmall, g.sendLarge, g.spread, g.compare, g.rejoin} {
		g.tasks.Go(task)
	}
	return g, nil
}

func (cfg Config) network() Network {
	if cfg.Network == nil {
		return host{}
	}
	return cfg.Network
}

func (cfg Config) secure() Secure {
	if cfg.Secure == nil {
		return keyed{self: cfg.ID, key: cfg.Key}
	}
	return cfg.Secure
}

func (cfg Config) validate() error {
	const do = "start the agent with --advertise ADDR and --gossip-port PORT"
	if err := cfg.ID.Validate(); err != nil {
		return err
	}
	if a := cfg.Bind.Addr(); !a.IsValid() || a.IsUnspecified() || a.Is4In6() || a.IsMulticast() || cfg.Bind.Port() == 0 {
		return mesh.Refuse(mesh.BadAddress, do, "gossip cannot listen on %s: other nodes must reach it there", cfg.Bind)
	}
	if d := cfg.Detection; d != (Detection{}) && (d.Period <= 0 || d.Suspicion <= 0 || d.Doubt <= 0) {
		return mesh.Refuse(mesh.BadValue, "take gossip.Fast or gossip.LAN and change that", "a detection without a period, a suspicion or a doubt finds nobody")
	}
	if cfg.State == nil || cfg.Log == nil {
		return mesh.Refuse(mesh.BadValue, "give both", "gossip needs a state and a log")
	}
	return nil
}

const (
	retransmitMult = 4                     // a message is gossiped 4·log10(members+1) times
	streamTimeout  = 5 * time.Second       // to connect, and for one exchange
	packetBytes    = 1400                  // of UDP payload, the seal included
	memberPeriod   = 30 * time.Second      // between two exchanges of members; see also align
	reclaimAfter   = 10 * time.Millisecond // see settings
	gossipPeriod   = 50 * time.Millisecond // same traffic as the usual 200 ms, a quarter of the delay
)

func (g *Gossip) settings(cfg Config, link *transport) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(cfg.ID)
	c.Transport = link
	c.BindAddr, c.BindPort = cfg.Bind.Addr().String(), int(cfg.Bind.Port())
	c.AdvertiseAddr, c.AdvertisePort = c.BindAddr, c.BindPort
	c.Keyring = g.ring
	c.Logger = g.book.std()
	c.Delegate, c.Events, c.Alive = g.in, g.members, g.members
	// Serf's numbers: memberlist lets nobody in whose numbers do not meet those of all
	// others, and our own version is in each message.
	c.DelegateProtocolMin, c.DelegateProtocolVersion, c.DelegateProtocolMax = 2, 4, 5
	detection := cmp.Or(cfg.Detection, Fast())
	detection.set(c)
	// memberlist wants nobody to change its settings. It reads this one alone under the lock that it holds
	// while it tells members of a change, and only there: state.go, to be looked at with each new version.
	g.members.resized = func(n int) { c.SuspicionMult = detection.suspicion(n) }
	c.TCPTimeout, c.UDPBufferSize = streamTimeout, packetBytes
	c.PushPullInterval = memberPeriod
	// A node that comes back with another address is refused until it was dead for so long.
	c.DeadNodeReclaimTime = reclaimAfter
	// Messages are small, and decompressing those of others is one more thing to limit.
	c.EnableCompression = false
	return c
}

// Members returns the nodes that are alive, this one included, sorted.
func (g *Gossip) Members() []mesh.NodeID { return g.members.ids() }

const leaveTimeout = 2 * time.Second

// Leave sends what is queued and tells the others that this node goes, so that they need
// not find out. Gossip still receives until Close. It returns when the others were
// told or ctx ends.
func (g *Gossip) Leave(ctx context.Context) error {
	g.setLeaves()
	return g.do(ctx, func() error {
		g.flushSmall()
		g.flushLarge()
		return g.list.Leave(leaveTimeout)
	})
}

// Close stops without a word to the others and waits for everything that it
// started. State is not called afterwards. A second call does nothing.
func (g *Gossip) Close() error {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.tasks.Wait() // before Shutdown: memberlist panics where Leave comes after it
	if !first {
		return nil
	}
	err := g.list.Shutdown()
	g.in.close()
	return err
}

// do runs f, which cannot be interrupted, as a task that Close waits for, and
// returns earlier where ctx ends.
func (g *Gossip) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return errClosed()
	}
	g.tasks.Go(func() { done <- f() })
	g.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-g.ctx.Done():
		return errClosed()
	}
}

func errClosed() error { return mesh.Refuse(Closed, "start the agent again", "gossip has ended") }
