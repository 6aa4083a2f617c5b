package mesh

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// The ranges that numbers and addresses are chosen from.
const (
	firstVNI  VNI = 1 << 20 // Swarm's begin at 4096: ours never meet them
	lastVNI   VNI = 1<<24 - 1
	slotCount     = 1<<16 - 1
)

func validVNI(v VNI) bool { return v >= firstVNI && v <= lastVNI }

// DefaultPool and DefaultIngress are the IPv4 ranges of a cluster that says
// nothing else. 198.18.0.0/15 is for benchmarks between devices (RFC 2544): no
// real client has such an address.
func DefaultPool() netip.Prefix { return netip.MustParsePrefix("10.192.0.0/10") }

// DefaultIngress is the ingress network's IPv4 subnet.
func DefaultIngress() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/16") }

const (
	subnetBits4  = 20 // of a user network
	blockBits4   = 26 // of a node's block of it
	ingressBits4 = 27 // of a node's block of the ingress network
	subnetBits6  = 48
)

// NewIngress returns the ingress network of a new cluster. The seed is random
// and makes the cluster's IPv6 prefixes its own (RFC 4193).
func NewIngress(subnet, pool netip.Prefix, seed uint64) *Network {
	return &Network{
		ID: IngressNetwork, Name: "ingress",
		Subnet4: subnet.Masked(), Subnet6: ula(seed), Bits4: ingressBits4,
		VNI: firstVNI, EntryVNI: firstVNI + 1, Pool: pool,
	}
}

func (snap *Snapshot) freeVNI(name string) (VNI, error) {
	taken := map[VNI]bool{}
	for _, n := range snap.Networks {
		taken[n.VNI], taken[n.EntryVNI] = true, true
	}
	span := uint64(lastVNI - firstVNI + 1)
	start := hash("vni", name)
	for i := range span {
		if v := firstVNI + VNI((start+i)%span); !taken[v] {
			return v, nil
		}
	}
	return 0, Refuse(PoolExhausted, "remove a network", "of %d VNIs %d are in use, 0 are free", span, span)
}

// freeSubnet is a subnet of the pool that no node leads elsewhere. Where there is none, it is one
// that only lies in more that is led elsewhere, as all of 10.0.0.0/8 often is: packets follow the
// blocks, which are longer prefixes.
func (snap *Snapshot) freeSubnet(name string, pool netip.Prefix) (netip.Prefix, error) {
	count := uint64(1) << max(0, subnetBits4-pool.Bits())
	start := hash("subnet", name)
	networks := uint64(0)
	var within netip.Prefix
	var first error // of those that no network keeps from us
	for i := range count {
		p := nth4(pool, subnetBits4, int((start+i)%count))
		err := snap.free(p)
		switch {
		case err == nil && !snap.leadsElsewhere(p):
			return p, nil
		case err == nil && !within.IsValid():
			within = p
		case err != nil && overlapped(p, snap.Networks) != nil:
			networks++
		case err != nil && first == nil:
			first = err
		}
	}
	if within.IsValid() {
		return within, nil
	}
	do, led := "remove a network, or give --subnet", ""
	if r, ok := errors.AsType[*Refusal](first); ok {
		do, led = "remove a network, that route, or a node that is gone, or give --subnet", " ("+r.Why+")"
	}
	return netip.Prefix{}, Refuse(PoolExhausted, do, "of the %d subnets of pool %s networks have %d, %d are where a node is or leads elsewhere%s, 0 are free",
		count, pool, networks, count-networks, led)
}

// free refuses a subnet that a network overlaps or a node is in.
func (snap *Snapshot) free(p netip.Prefix) error {
	for _, n := range snap.Networks {
		for _, taken := range n.Subnets() {
			if taken.Overlaps(p) {
				return Refuse(SubnetTaken, "choose a subnet that no network has", "subnet %s overlaps %s of network %q", p, taken, n.Name)
			}
		}
	}
	for _, n := range snap.Nodes {
		if err := n.Outside(p); err != nil {
			return err
		}
	}
	return snap.unrouted(p)
}

// ula is the unique local /48 (RFC 4193) of a 40-bit global ID.
func ula(seed uint64) netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], 0xfd<<56|(seed&(1<<40-1))<<16)
	return netip.PrefixFrom(netip.AddrFrom16(a), subnetBits6)
}

// nth4 is the i-th part of length bits of an IPv4 prefix.
func nth4(p netip.Prefix, bits, i int) netip.Prefix {
	a := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) + uint32(i)<<(32-bits)
	binary.BigEndian.PutUint32(a[:], n)
	return netip.PrefixFrom(netip.AddrFrom4(a), bits)
}

// lastOf is the last address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr { return nth4(p, 32, 1<<(32-p.Bits())-1).Addr() }

// nth is nth4 or, of an IPv6 prefix, nth6.
func nth(p netip.Prefix, bits, i int) netip.Prefix {
	if p.Addr().Is4() {
		return nth4(p, bits, i)
	}
	return nth6(p, i)
}

// nth6 is the i-th /64 of an IPv6 prefix.
func nth6(p netip.Prefix, i int) netip.Prefix {
	a := p.Masked().Addr().As16()
	binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])+uint64(i))
	return netip.PrefixFrom(netip.AddrFrom16(a), blockBits6)
}

// size is how many addresses a block has; number 0 is the sandbox itself.
func (b Block) size() int { return 1 << (32 - b.V4.Bits()) }

// address returns the i-th pair of addresses of a block.
func (b Block) address(i int) (v4, v6 netip.Addr) {
	v6 = b.Gateway6()
	a := v6.As16()
	binary.BigEndian.PutUint64(a[8:], uint64(i+1))
	return nth4(b.V4, 32, i).Addr(), netip.AddrFrom16(a)
}
