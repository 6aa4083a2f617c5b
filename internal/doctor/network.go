package doctor

import (
	"fmt"
	"slices"
	"strings"
)

func ports(f *Facts) []Check {
	var all []Check
	for _, p := range f.Ports {
		name := fmt.Sprintf("port %s %s", p.Use, p.Proto)
		var ours, others []string
		for _, h := range p.Holders {
			switch {
			case h.PID != 0 && h.PID == f.Agent.PID:
				ours = append(ours, "the agent")
			case h.Kernel && p.Use == "vxlan":
				ours = append(ours, "the kernel, for tunnels")
			default:
				others = append(others, holderText(h))
			}
		}
		switch {
		case len(others) > 0:
			do := fmt.Sprintf("stop it, or start all agents with --%s-port of another number", p.Use)
			all = append(all, fail(name, do, "%d is held by %s", p.Number, listed(others)))
		case len(ours) > 0:
			all = append(all, ok(name, "%d is held by %s", p.Number, listed(slices.Compact(ours))))
		case f.Agent.State == Running && p.Use == "gossip" && f.Agent.InCluster:
			all = append(all, fail(name, "look at the agent's log, and start it again", "%d is held by nobody, and the agent is in a cluster", p.Number))
		default:
			all = append(all, ok(name, "%d is free", p.Number))
		}
	}
	return all
}

func holderText(h Holder) string {
	switch {
	case h.Kernel:
		return "the kernel"
	case h.PID == 0:
		return "an unknown process"
	default:
		return fmt.Sprintf("%s (pid %d)", h.Name, h.PID)
	}
}

// tunnels looks for other VXLAN devices that get in the way: the kernel has one device
// for a VNI and a port, and one socket for a port.
func tunnels(f *Facts) []Check {
	const name = "tunnels"
	var all []Check
	var beside []string
	for _, t := range f.Tunnels {
		port := uint16(0)
		for _, p := range f.Ports {
			if p.Use == "vxlan" {
				port = p.Number
			}
		}
		do := fmt.Sprintf("ip link delete %s, or give it another VNI or dstport, or start all agents with --vxlan-port of another number", t.Name)
		switch network, clash := f.Agent.VNIs[t.VNI]; {
		case t.Port != port:
		case t.External:
			all = append(all, warn(name, do, "device %s takes the packets of all VNIs on port %d", t.Name, t.Port))
		case clash:
			all = append(all, fail(name, do, "device %s has VNI %d on port %d, which is network %s's", t.Name, t.VNI, t.Port, network))
		default:
			beside = append(beside, fmt.Sprintf("%s with VNI %d", t.Name, t.VNI))
		}
	}
	switch {
	case len(all) > 0:
		return all
	case len(beside) > 0:
		return []Check{ok(name, "others use the port with other VNIs: %s", listed(beside))}
	}
	return []Check{ok(name, "no VXLAN device of another program is in the way")}
}

func underlay(f *Facts) []Check {
	const name = "underlay"
	u := f.Underlay
	if !u.Addr.IsValid() {
		return []Check{fail(name, "start the agent with --advertise ADDR, an address of this host that the other nodes reach", "%s", u.Missing)}
	}
	return []Check{ok(name, "%s on %s, MTU %d", u.Addr, u.Device, u.MTU)}
}

// overhead is what a tunnel adds to a packet: inner Ethernet 14, VXLAN 8, UDP 8 and the outer IP header.
func overhead(f *Facts) int {
	if f.Underlay.Addr.Is4() {
		return 14 + 8 + 8 + 20
	}
	return 14 + 8 + 8 + 40
}

const leastIPv6 = 1280 // MTU below which a device has no IPv6

func mtu(f *Facts) []Check {
	const name = "mtu"
	u := f.Underlay
	if !u.Addr.IsValid() {
		return nil
	}
	over := overhead(f)
	if least := leastIPv6 + over; u.MTU < least {
		return []Check{fail(name, fmt.Sprintf("ip link set %s mtu %d, or more", u.Device, least), "%d leave %d in a tunnel, and IPv6 needs %d", u.MTU, u.MTU-over, leastIPv6)}
	}
	if needs := f.Agent.Needs; needs > 0 && u.MTU-over < needs {
		return []Check{fail(name, fmt.Sprintf("ip link set %s mtu %d, or start the agent again, so that the cluster follows", u.Device, needs+over),
			"%d leave %d in a tunnel, and the cluster uses %d", u.MTU, u.MTU-over, needs)}
	}
	for _, p := range f.Agent.Peers {
		if p.MTU > 0 && p.MTU < u.MTU {
			return []Check{ok(name, "%d here; node %s has %d, which is what tunnels are made for", u.MTU, p.Name, p.MTU)}
		}
	}
	return []Check{ok(name, "%d leave %d in a tunnel", u.MTU, u.MTU-over)}
}

// overlaps names what the host reaches elsewhere and the mesh uses too.
func overlaps(f *Facts) []Check {
	const name = "overlap"
	var all []Check
	named := map[Occupied]bool{}
	for _, c := range f.Claims {
		for _, o := range f.Occupied {
			if !c.Prefix.Overlaps(o.Prefix) || named[o] {
				continue
			}
			seen := fmt.Sprintf("%s (%s) overlaps %s, %s", o.Prefix, o.By, c.Prefix, c.Of)
			switch {
			case c.Use == UseUplink && o.Prefix.Bits() < c.Prefix.Bits():
				// Ours is the longer prefix: packets take it.
			case c.Use == UseUplink:
				named[o] = true
				all = append(all, fail(name, "remove it: published ports are not reached past it", "%s", seen))
			case c.Use == UseNetwork:
				named[o] = true
				all = append(all, warn(name, "use other addresses for one of the two: endpoints do not reach the hosts that are meant there", "%s", seen))
			case c.Use == UsePool:
				all = append(all, warn(name, "give new networks a --subnet outside it, or the cluster another --pool at sluice init", "%s", seen))
			}
		}
	}
	if len(all) == 0 {
		return []Check{ok(name, "no route and no address of this host is in what the mesh uses")}
	}
	return all
}

// reverseFilter only tells: the mesh passes a strict filter, and leaves it as it is.
func reverseFilter(f *Facts) []Check {
	const name = "rp_filter"
	var strict []string
	for _, r := range f.ReverseFilter {
		if r.Value == "1" {
			strict = append(strict, r.Device)
		}
	}
	if len(strict) == 0 {
		return []Check{ok(name, "strict on no card")}
	}
	return []Check{ok(name, "strict on %s: that is fine, and stays so", listed(strict))}
}

func forwarding(f *Facts) []Check {
	var all []Check
	for _, w := range f.Forwarding {
		name := "forwarding " + strings.TrimPrefix(w.Key, "net/")
		switch {
		case w.Now == "":
			all = append(all, fail(name, "boot with this family switched on", "this host has no such setting"))
		case w.Now == "0" && f.Agent.State == Running && f.Agent.Applied && f.Agent.InCluster:
			all = append(all, fail(name, "see sluice status and sluice plan --diff; something sets it back", "off, and the mesh needs it"))
		case w.Now == "0":
			all = append(all, ok(name, "off; the agent switches it on when the node is in a cluster, for the mesh alone"))
		case w.Before == "0":
			all = append(all, ok(name, "on since the agent; off before: nothing passes between devices that did not forward then. %s on it", relies(f)))
		case w.Before != "":
			all = append(all, ok(name, "on, as before the agent. %s on it", relies(f)))
		default:
			all = append(all, ok(name, "on, and not by the agent. %s on it", relies(f)))
		}
	}
	return all
}

func relies(f *Facts) string {
	switch n := f.Agent.Published; {
	case f.Agent.State != Running:
		return "The mesh relies"
	case n == 1:
		return "1 published port relies"
	default:
		return fmt.Sprintf("%d published ports rely", n)
	}
}

const (
	tableNear = 75 // percent
	tableFull = 95
)

func conntrack(f *Facts) []Check {
	const name = "conntrack"
	const do = "sysctl -w net.netfilter.nf_conntrack_max=%d, and look with conntrack -S at what drops"
	var all []Check
	var most Conntrack
	for _, t := range f.Conntrack {
		if t.Max <= 0 {
			continue
		}
		if most.Max == 0 || t.Count*most.Max > most.Count*t.Max {
			most = t
		}
		switch percent := t.Count * 100 / t.Max; {
		case percent >= tableFull:
			all = append(all, fail(name, fmt.Sprintf(do, 2*t.Max), "%d of %d connections in %s: new ones are dropped", t.Count, t.Max, t.Sandbox))
		case percent >= tableNear:
			all = append(all, warn(name, fmt.Sprintf(do, 2*t.Max), "%d of %d connections in %s", t.Count, t.Max, t.Sandbox))
		}
	}
	switch {
	case len(all) > 0:
		return all
	case most.Max == 0:
		return []Check{ok(name, "nothing is tracked yet")}
	}
	return []Check{ok(name, "%d of %d connections in %s, the fullest of %d", most.Count, most.Max, most.Sandbox, len(f.Conntrack))}
}

// neighbours compares with the limit that all network namespaces share.
func neighbours(f *Facts) []Check {
	var all []Check
	for _, n := range f.Neighbours {
		name := "neighbours " + n.Family
		// An endpoint is learned by its sandbox, and learns its gateway; a peer is learned by the host.
		needs := 2*f.Agent.Endpoints + len(f.Agent.Peers)
		most := max(n.Entries, needs)
		do := fmt.Sprintf("sysctl -w net.%s.neigh.default.gc_thresh3=%d", n.Family, max(2*n.Limit, 2*most))
		switch seen := fmt.Sprintf("%d entries of at most %d (gc_thresh3)", n.Entries, n.Limit); {
		case n.Limit <= 0:
		case most >= n.Limit:
			all = append(all, fail(name, do, "%s; %s and %s here need up to %d", seen, count(f.Agent.Endpoints, "endpoint"), count(len(f.Agent.Peers), "peer"), needs))
		case most*100/n.Limit >= tableNear:
			all = append(all, warn(name, do, "%s; %s and %s here need up to %d", seen, count(f.Agent.Endpoints, "endpoint"), count(len(f.Agent.Peers), "peer"), needs))
		default:
			all = append(all, ok(name, "%s", seen))
		}
	}
	return all
}
