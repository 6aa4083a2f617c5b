package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-mesh/sluice/internal/trust"
	"github.com/sluice-mesh/sluice/mesh"
)

// The limits of connections to the API over TCP.
const (
	strangersMost = 256              // that have not said yet who they are
	connsOfOne    = 64               // of one certificate's key
	viewersMost   = 512              // of all viewers
	connsOfAll    = 1024             // of all members
	stayCheck     = 10 * time.Second // how often members' connections are judged anew
)

// doorkeeper is a listener that strangers cannot block: of those that have not said who they are
// it keeps some, and for one more it closes the oldest of the address that has the most. Who has
// proven to be a member is counted apart. Safe for concurrent use.
type doorkeeper struct {
	net.Listener
	greetings greetings

	mu        sync.Mutex
	closed    bool
	strangers []*visitor // the oldest first
	members   map[*visitor]trust.Identity
}

func newDoorkeeper(l net.Listener) *doorkeeper {
	return &doorkeeper{Listener: l, members: map[*visitor]trust.Identity{}}
}

// visitor is one connection.
type visitor struct {
	net.Conn
	keeper *doorkeeper
	from   netip.Prefix // where it comes from: one machine of IPv4, one network of IPv6

	state   tls.ConnectionState // of a member
	doubted bool                // it was no member when it was last looked
}

// Accept waits for the next connection.
func (d *doorkeeper) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	v := &visitor{Conn: conn, keeper: d, from: originOf(conn.RemoteAddr())}
	if out := d.greet(v); out != nil {
		out.Conn.Close()
	}
	return v, nil
}

// greet takes a stranger in, and gives the one that has to go for it; nil: none has.
func (d *doorkeeper) greet(v *visitor) (out *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return v
	}
	if len(d.strangers) >= strangersMost {
		i := crowdOf(d.strangers)
		out = d.strangers[i]
		d.strangers = slices.Delete(d.strangers, i, i+1)
	}
	d.strangers = append(d.strangers, v)
	return out
}

// crowdOf is the oldest of those who come from where the most do.
func crowdOf(strangers []*visitor) int {
	from := map[netip.Prefix]int{}
	for _, s := range strangers {
		from[s.from]++
	}
	crowd := 0
	for i, s := range strangers {
		if from[s.from] > from[strangers[crowd].from] {
			crowd = i
		}
	}
	return crowd
}

// originOf is whom an address is taken for: who has one of IPv6 usually has 2^64.
func originOf(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// recognize makes a stranger a member, or refuses one that has too many connections.
func (d *doorkeeper) recognize(v *visitor, id trust.Identity, state tls.ConnectionState) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.strangers, v)
	if i < 0 {
		return net.ErrClosed // it had to go for another one
	}
	same, viewers := 0, 0
	for _, member := range d.members {
		if member.Key == id.Key {
			same++
		}
		if member.Role == trust.RoleViewer {
			viewers++
		}
	}
	if same >= connsOfOne || len(d.members) >= connsOfAll || id.Role == trust.RoleViewer && viewers >= viewersMost {
		return mesh.Refuse(TooManyCalls, "close some connections", "%s has %d connections, viewers together have %d and all have %d, and %d, %d and %d are allowed",
			id, same, viewers, len(d.members), connsOfOne, viewersMost, connsOfAll)
	}
	d.strangers = slices.Delete(d.strangers, i, i+1)
	d.members[v], v.state = id, state
	return nil
}

// Close ends a connection.
func (v *visitor) Close() error {
	v.keeper.forget(v)
	return v.Conn.Close()
}

func (d *doorkeeper) forget(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.members, v)
	d.strangers = slices.DeleteFunc(d.strangers, func(s *visitor) bool { return s == v })
}

// Close ends listening, and the strangers: nobody waits until they have said who they are.
func (d *doorkeeper) Close() error {
	d.mu.Lock()
	d.closed = true
	strangers := d.strangers
	d.strangers = nil
	d.mu.Unlock()
	for _, s := range strangers {
		s.Conn.Close()
	}
	return d.Listener.Close()
}

// watch closes the connections of who is no member any more, until ctx ends: each call is
// refused to them in any case, and this ends what they hold.
func (d *doorkeeper) watch(ctx context.Context, judge func(tls.ConnectionState) error) error {
	tick := time.NewTicker(stayCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.sweep(judge)
		}
	}
}

// sweep closes whom it finds to be no member for the second time, so that a call may end that was
// let in before: an operator that removes a node is none itself when the answer comes.
func (d *doorkeeper) sweep(judge func(tls.ConnectionState) error) {
	var over []*visitor
	d.mu.Lock()
	for v := range d.members {
		doubted := judge(v.state) != nil
		if doubted && v.doubted {
			over = append(over, v)
		}
		v.doubted = doubted
	}
	d.mu.Unlock()
	for _, v := range over {
		v.Close()
	}
}
