package mesh

import (
	"encoding/binary"
	"net/netip"
)

// A node gives addresses on a bridge from the whole subnet, since it has the bridge for itself:
// no other node's endpoints are on it, and the same address may be another's elsewhere.

// bridged picks a free address of each family on a bridge by hash of the endpoint's ID, or what
// the endpoint asks for. As on an overlay what rests is taken where nothing else is left.
func (s *settling) bridged(e *Endpoint, n *Network, asked []at) (Attachment, error) {
	if err := s.snap.fits(e, n, asked, s.now); err != nil {
		return Attachment{}, err
	}
	if err := s.unheld(e, asked); err != nil {
		return Attachment{}, err
	}
	a := askedPair(n.ID, asked)
	var err error
	start := hash("address", string(e.ID))
	if !a.V4.IsValid() {
		if a.V4, err = s.host(e, n, n.Subnet4, start); err != nil {
			return Attachment{}, err
		}
	}
	if !a.V6.IsValid() {
		// The number of the IPv4 address where that is free: a pair is easier to read.
		four := a.V4.As4()
		number := uint64(binary.BigEndian.Uint32(four[:])) & (hostCount(n.Subnet4) - 1)
		if a.V6, err = s.host(e, n, n.Subnet6, number); err != nil {
			return Attachment{}, err
		}
	}
	return a, nil
}

// host is a free address of a bridge's subnet, of several the first from a number on.
func (s *settling) host(e *Endpoint, n *Network, p netip.Prefix, start uint64) (netip.Addr, error) {
	resting, rests := netip.Addr{}, uint64(0)
	count := hostCount(p)
	for i := range count {
		a := at{n.ID, nthHost(p, (start+i)%count)}
		if !n.hosts(a.addr) || !s.open(a, e) {
			continue
		}
		until := s.snap.restsUntil(a, s.node.ID, "", s.now)
		if until == 0 {
			return a.addr, nil
		}
		if rests == 0 || until < rests {
			resting, rests = a.addr, until
		}
	}
	if rests != 0 {
		return resting, nil
	}
	used := 0
	for a := range s.holder {
		if a.network == n.ID && p.Contains(a.addr) {
			used++
		}
	}
	return netip.Addr{}, Refuse(PoolExhausted, "detach endpoints, or make a bridge network with a larger subnet", "bridge network %q has no address left in %s on node %q: %d endpoints have one, 0 are free", n.Name, p, s.node.Name, used)
}

// hosts tells whether an endpoint may have an address of a bridge's subnet.
func (n *Network) hosts(a netip.Addr) bool {
	return n.Contains(a) && !n.noHost(a) && a != n.Gateway4 && a != n.Gateway6
}

// hostCount is how many numbers a subnet's addresses have: 2^32 at most, of which a node has use
// for few.
func hostCount(p netip.Prefix) uint64 { return 1 << min(32, p.Addr().BitLen()-p.Bits()) }

// nthHost is the address of a number below hostCount.
func nthHost(p netip.Prefix, i uint64) netip.Addr {
	if p.Addr().Is4() {
		return nth4(p, 32, int(i)).Addr()
	}
	a := p.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], binary.BigEndian.Uint64(a[8:])|i)
	return netip.AddrFrom16(a)
}

// fitsBridge refuses what an endpoint cannot have on a bridge, whoever else is there.
func (n *Network) fitsBridge(asked []at) error {
	for _, a := range asked {
		if !n.hosts(a.addr) {
			return Refuse(BadAddress, "choose another one", "%s is the gateway of network %q, or the first or last address of its subnet", a.addr, n.Name)
		}
	}
	return nil
}
