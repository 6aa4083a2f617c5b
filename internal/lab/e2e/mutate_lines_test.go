package e2e

import "slices"

// line is what is known of one part.
type line struct {
	part   string      // its name
	by     []string    // the trials and cells that notice
	behind string      // another part, which holds without this one: by notices when both are away
	nobody string      // why nobody can miss it
	world  kindOfWorld // where it is tried
}

// lines are all parts, in the order of the page.
func lines() []line { return slices.Concat(setLines(), ruleLines(), bridgeLines(), judgeLines()) }

// setLines are of the sets and maps of the host's table.
func setLines() []line {
	return []line{
		{part: "set unrouted4: all elements", by: []string{"a stranger to the node's peer, ipv4"}},
		{part: "set unrouted6: all elements", by: []string{"a stranger to the node's peer, ipv6"}},
		{part: "set entered4: all elements", by: []string{"an overlay endpoint's port, ipv4, tcp", "an overlay endpoint's port, ipv4, udp"}},
		{part: "set entered6: all elements", by: []string{"an overlay endpoint's port, ipv6, tcp", "an overlay endpoint's port, ipv6, udp"}},
		{part: "set entered_range4: all elements", by: []string{"an overlay endpoint's range, ipv4, tcp", "an overlay endpoint's range, ipv4, udp"}},
		{part: "set entered_range6: all elements", by: []string{"an overlay endpoint's range, ipv6, tcp", "an overlay endpoint's range, ipv6, udp"}},
		{part: "map hosted4: all elements", by: []string{"a bridge's port, ipv4, tcp", "a bridge's port, ipv4, udp"}},
		{part: "map hosted_at4: all elements", by: []string{"a port with sources at one address, from one, ipv4, tcp", "a port with sources at one address, from one, ipv4, udp"}},
		{part: "map hosted_range4: all elements", by: []string{"a port of a range, ipv4, tcp", "a port of a range, ipv4, udp"}},
		{part: "map hosted_range_at4: all elements", by: []string{"a port of a range at one address, ipv4, tcp", "a port of a range at one address, ipv4, udp"}},
		{part: "map hosted6: all elements", by: []string{"a bridge's port, ipv6, tcp", "a bridge's port, ipv6, udp"}},
		{part: "map hosted_at6: all elements", by: []string{"a port with sources at one address, from one, ipv6, tcp", "a port with sources at one address, from one, ipv6, udp"}},
		{part: "map hosted_range6: all elements", by: []string{"a port of a range, ipv6, tcp", "a port of a range, ipv6, udp"}},
		{part: "map hosted_range_at6: all elements", by: []string{"a port of a range at one address, ipv6, tcp", "a port of a range at one address, ipv6, udp"}},
		{part: "set sourced: all elements", by: []string{"a port with sources, from another, ipv4, tcp", "a port with sources, from another, ipv6, tcp", "a port with sources, from another, ipv4, udp", "a port with sources, from another, ipv6, udp"}},
		{part: "set sourced_at4: all elements", by: []string{"a port with sources at one address, from another, ipv4, tcp", "a port with sources at one address, from another, ipv4, udp"}},
		{part: "set sourced_at6: all elements", by: []string{"a port with sources at one address, from another, ipv6, tcp", "a port with sources at one address, from another, ipv6, udp"}},
		{part: "set sources4: all elements", by: []string{"a port with sources, from one, ipv4, tcp", "a port with sources, from one, ipv4, udp"}},
		{part: "set sources6: all elements", by: []string{"a port with sources, from one, ipv6, tcp", "a port with sources, from one, ipv6, udp"}},
		{part: "set sources_at4: all elements", by: []string{"a port with sources at one address, from one, ipv4, tcp", "a port with sources at one address, from one, ipv4, udp"}},
		{part: "set sources_at6: all elements", by: []string{"a port with sources at one address, from one, ipv6, tcp", "a port with sources at one address, from one, ipv6, udp"}},
		{part: "set gateways4: all elements", by: []string{"an overlay endpoint's port, host by a bridge's address, ipv4, tcp", "an overlay endpoint's port, host by a bridge's address, ipv4, udp"}},
		{part: "set gateways6: all elements", by: []string{"an overlay endpoint's port, host by a bridge's address, ipv6, tcp", "an overlay endpoint's port, host by a bridge's address, ipv6, udp"}},
		{part: "set own_bridges: all elements", by: []string{"a mesh port, another program's container, ipv4, tcp", "a mesh port, another program's container, ipv6, tcp", "another program's container's tunnel to a peer, ipv4", "an endpoint to another program's container, ipv4", "an endpoint to another program's container, ipv6"}},
		{part: "set together: all elements", by: []string{"an endpoint to its sibling by way of the host, ipv4", "an endpoint to its sibling by way of the host, ipv6"}},
		{part: "set internal_bridges: all elements", by: []string{"an internal endpoint to the world, ipv4", "an internal endpoint to the world, ipv6", "a port that another program leads to an internal endpoint, ipv4, tcp", "a port that another program leads to an internal endpoint, ipv6, tcp"}},
		{part: "set routed_bridges: all elements", by: []string{"direct routing, a machine outside with a route, published at the endpoint, ipv4 tcp", "direct routing, a machine outside with a route, unpublished at the endpoint, ipv6 udp"}},
		{part: "set bridged4: all elements", behind: `forward: oifname "sl-b*" oifname != @routed_bridges counter drop`, by: []string{"nat, a machine outside with a route, unpublished at the endpoint, ipv4 udp"}},
		{part: "set bridged6: all elements", behind: `forward: oifname "sl-b*" oifname != @routed_bridges counter drop`, by: []string{"nat, a machine outside with a route, unpublished at the endpoint, ipv6 udp"}},
		{part: "set bridge_sources4: all elements", by: []string{"an endpoint to the host, ipv4"}},
		{part: "set bridge_sources6: all elements", by: []string{"an endpoint to the host, ipv6"}},
		{part: "set peers4: all elements", by: []string{"a peer's tunnel, ipv4", "a process's tunnel to a peer, ipv4", "another program's container's tunnel to a peer, ipv4"}},
		{part: "set peers6: all elements", by: []string{"a peer's tunnel, ipv6", "a process's tunnel to a peer, ipv6", "another program's container's tunnel to a peer, ipv6"}, world: sixWorld},
		{part: "set tunnel_ports: all elements", by: []string{"an endpoint's tunnel to the world, ipv4", "an endpoint's tunnel to the world, ipv6", "an overlay endpoint's tunnel to the world, ipv4", "an overlay endpoint's tunnel to the world, ipv6", "another program's container's tunnel to a peer, ipv4", "a process's tunnel to a peer, ipv4"}},
		{part: "set published: all elements", by: []string{"a mesh port, ipv4, tcp", "a mesh port, ipv6, tcp", "a mesh port, ipv4, udp", "a mesh port, ipv6, udp"}},
		{part: "map published_at4: all elements", by: []string{"a mesh port at one address, ipv4, tcp", "a mesh port at one address, ipv4, udp"}},
		{part: "map published_at6: all elements", by: []string{"a mesh port at one address, ipv6, tcp", "a mesh port at one address, ipv6, udp"}},
	}
}

// bridgeLines are of the tables of bridges: their questions are asked on each.
func bridgeLines() []line {
	return []line{
		{part: "bridge set macs: all elements", by: []string{"frame: its own, ipv4", "frame: its own, ipv6"}},
		{part: "bridge set addresses4: all elements", by: []string{"frame: its own, ipv4", "frame: its own ARP"}},
		{part: "bridge set addresses6: all elements", by: []string{"frame: its own, ipv6"}},
		{part: "bridge set targets: all elements", by: []string{"frame: its own advertisement"}},
		{part: "bridge ports: policy drop", by: []string{"frame: another's address, ipv4", "frame: another's address, ipv6", "frame: ARP that gives another's address", "frame: a VLAN's", "frame: neither IP nor ARP"}},
		{part: `bridge ports: iifname "host" accept`, by: []string{"the host to an endpoint, ipv4", "the host to an endpoint, ipv6"}},
		{part: "bridge ports: iifname . ether saddr != @macs counter drop", by: []string{"frame: another's hardware address, ipv4", "frame: another's hardware address, ipv6"}},
		{part: "bridge ports: ether type ip iifname . ip saddr @addresses4 accept", by: []string{"frame: its own, ipv4"}},
		{part: "bridge ports: ether type arp iifname . arp saddr ether != @macs counter drop", by: []string{"frame: ARP that gives another hardware address"}},
		{part: "bridge ports: ether type arp arp saddr ip 0.0.0.0 accept", by: []string{"frame: its own ARP from no address"}},
		{part: "bridge ports: ether type arp iifname . arp saddr ip @addresses4 accept", by: []string{"frame: its own ARP"}},
		{part: "bridge ports: ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } counter drop", by: []string{"frame: router's advertisement", "frame: redirect"}},
		{part: "bridge ports: ether type ip6 icmpv6 type nd-neighbor-advert @th,64,10 != 0x3fa iifname . @th,64,128 != @targets counter drop", by: []string{"frame: advertisement of another's address"}},
		{part: "bridge ports: ether type ip6 ip6 saddr { ::, fe80::/10 } accept", by: []string{"frame: its own, from no address, ipv6"}},
		{part: "bridge ports: ether type ip6 iifname . ip6 saddr @addresses6 accept", by: []string{"frame: its own, ipv6"}},
		{part: "bridge ports: counter", nobody: "it counts what the policy drops, for people; no packet depends on it"},
		{part: "bridge nobody: policy drop", by: []string{"frame: the bridge learns another's hardware address from one to a reserved address"}},
	}
}
