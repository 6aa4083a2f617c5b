package matrix

import "slices"

// Differences are what Docker does otherwise, by reason. Nothing of it was not measured.
func Differences() []Difference { return slices.Concat(ofIPv6(), ofOutside(), ofNoProcess()) }

// publishing are the networks that publish at all.
func publishing() []Network { return []Network{NAT, Apart, Routed} }

// ofIPv6 are those of a family that has rules only when dockerd is told so, and the process of a port.
func ofIPv6() []Difference {
	return []Difference{
		{
			Name:   "IPv6 ports have a process and no rule",
			Docker: "Without `--ip6tables` a port answers over IPv6 by its docker-proxy alone, whose own connection the endpoint sees.",
			Sluice: "Both families have the same rules, so that the client's address is seen over both (1.4).",
			Where: []Where{
				{Daemons: []Daemon{Usual}, Askers: []Asker{Host, Outside}, Ports: []Port{Published, OnAddress}, At: []At{AtNode, AtSecond}, Networks: publishing(), Families: []Family{IPv6}, Does: Gateway},
			},
		},
		{
			Name:   "IPv6 is filtered by nobody",
			Docker: "Without `--ip6tables` dockerd turns IPv6 forwarding on and adds no rule: other bridges, neighbours on the same bridge and machines outside reach every port, on an internal network too.",
			Sluice: "What keeps networks apart is said once for both families (1.2, 1.3, 1.7, 1.8, 1.9).",
			Where: []Where{
				{Daemons: []Daemon{Usual}, Askers: []Asker{Same}, At: []At{AtEndpoint}, Networks: []Network{Apart}, Families: []Family{IPv6}, Does: Own},
				{Daemons: []Daemon{Usual}, Askers: []Asker{Other}, At: []At{AtEndpoint}, Families: []Family{IPv6}, Does: Own},
				{Daemons: []Daemon{Usual}, Askers: []Asker{Forged}, Networks: []Network{NAT, Internal, Apart}, Families: []Family{IPv6}, Does: Own},
			},
		},
		{
			Name:   "UDP is answered from another address",
			Docker: "What a container sends to a port is for docker-proxy. Its socket of a port on all addresses answers from the address of the asker's bridge: a socket that is connected to the one it dialled does not take that.",
			Sluice: "No process is between: the answer is translated back to the address that was dialled (1.6).",
			Where: []Where{
				{Daemons: []Daemon{Usual, SixTables}, Askers: []Asker{Itself, Same, Other}, Ports: []Port{Published}, At: []At{AtNode}, Networks: publishing(), Protos: []string{"udp"}, Does: Lost},
			},
		},
		{
			Name:   "IPv6 does not work inside an internal network",
			Docker: "With `--ip6tables` all that is not for the network's own prefix is dropped, and bridged packets are shown to that rule: neighbour solicitations are for a multicast address. With `net.bridge.bridge-nf-call-ip6tables` at 0 it works.",
			Sluice: "What stays on a bridge is no way in or out (1.8, 1.9), whether bridged packets are shown to rules or not.",
			Where: []Where{
				{Daemons: []Daemon{SixTables, NoProcess}, Askers: []Asker{Same}, At: []At{AtEndpoint}, Networks: []Network{Internal}, Families: []Family{IPv6}, Does: No},
			},
		},
	}
}

// ofOutside are those of packets from outside.
func ofOutside() []Difference {
	return []Difference{
		{
			Name:   "A route through the host leads to the port behind a published one",
			Docker: "The forward chain accepts what goes to the port behind a published one, also what was never translated; so one that is published on loopback alone is open to every neighbour with a route.",
			Sluice: "What comes for an endpoint's address from outside is dropped before any route is looked up, but where the network says direct routing (1.3).",
			Where: []Where{
				{Daemons: []Daemon{Usual}, Askers: []Asker{Forged}, Ports: []Port{Published, OnLoopback, OnAddress}, Networks: []Network{NAT, Apart}, Families: []Family{IPv4}, Does: Own},
				{Daemons: []Daemon{SixTables, NoProcess}, Askers: []Asker{Forged}, Ports: []Port{Published, OnLoopback, OnAddress}, Networks: []Network{NAT, Apart}, Does: Own},
			},
		},
		{
			Name:   "A frame to 127.0.0.1 from outside is translated",
			Docker: "127.0.0.1 is a local address, by whatever device a packet comes: it is translated before it could be dropped as one that no link may carry. Over IPv6 the kernel drops it first.",
			Sluice: "A packet to loopback that comes by a link is dropped before it is translated (1.4).",
			Where: []Where{
				{Askers: []Asker{Neighbour}, Ports: []Port{Published, OnLoopback}, Networks: publishing(), Families: []Family{IPv4}, Does: Arrives},
			},
		},
		{
			Name:   "There is no direct routing",
			Docker: "This version has no network of that kind. Without masquerading is the nearest: ports that are not published stay closed wherever there are rules.",
			Sluice: "`--direct-routing allow` opens the whole endpoint to machines outside (1.3).",
			Where: []Where{
				{Daemons: []Daemon{Usual}, Askers: []Asker{Forged}, Ports: []Port{Unpublished}, Networks: []Network{Routed}, Families: []Family{IPv4}, Does: No},
				{Daemons: []Daemon{SixTables, NoProcess}, Askers: []Asker{Forged}, Ports: []Port{Unpublished}, Networks: []Network{Routed}, Does: No},
			},
		},
	}
}

// ofNoProcess are those of rules alone.
func ofNoProcess() []Difference {
	return []Difference{
		{
			Name:   "All that the host sends to a container is masqueraded",
			Docker: "With no proxy, whatever has a local source leaves by the bridge with the bridge's address, as what comes from 127.0.0.1 has to.",
			Sluice: "Loopback alone is masqueraded: from other addresses the answer finds its way back (1.5).",
			Where: []Where{
				{Daemons: []Daemon{NoProcess}, Askers: []Asker{Host}, Ports: []Port{Published, OnAddress}, At: []At{AtNode, AtSecond}, Networks: publishing(), Does: Gateway},
			},
		},
		{
			Name:   "Nothing comes back to ::1",
			Docker: "With no proxy ::1 is translated as 127.0.0.1 is. The endpoint's answer comes to the host and is not taken for ::1: for IPv6 there is no `route_localnet`.",
			Sluice: "Published ports answer by ::1 as by 127.0.0.1 (1.5).",
			Where: []Where{
				{Daemons: []Daemon{NoProcess}, Askers: []Asker{Loopback}, Ports: []Port{Published, OnLoopback}, Networks: publishing(), Families: []Family{IPv6}, Does: Unanswered},
			},
		},
		{
			Name:   "A neighbour's own address is kept on the way through the host",
			Docker: "With no proxy a container that dials a neighbour's port through the host is not masqueraded. The answer goes straight over the bridge, and is translated back only where bridged packets are shown to the rules: with `net.bridge.bridge-nf-call-iptables` at 0 it comes from the neighbour's own address, and is lost.",
			Sluice: "It is masqueraded, which works either way (1.6).",
			Where: []Where{
				{Daemons: []Daemon{NoProcess}, Askers: []Asker{Same}, Ports: []Port{Published, OnAddress}, At: []At{AtNode, AtSecond}, Networks: []Network{NAT, Routed}, Does: Own},
			},
		},
		{
			Name:   "Without icc, not even by a published port",
			Docker: "With no proxy the way through the host comes in and leaves by one bridge, which is what the rule of icc drops.",
			Sluice: "`--no-icc` is about the endpoints' own addresses; what is published is so for everybody (1.6, 1.8).",
			Where: []Where{
				{Daemons: []Daemon{NoProcess}, Askers: []Asker{Itself, Same}, Ports: []Port{Published, OnAddress}, At: []At{AtNode, AtSecond}, Networks: []Network{Apart}, Does: No},
			},
		},
		{
			Name:   "Bridges are apart also for published ports",
			Docker: "With no proxy what a container sends to another bridge's port is dropped as any packet from bridge to bridge is.",
			Sluice: "A published port is reached from other bridges through the host's address (1.6).",
			Where: []Where{
				{Daemons: []Daemon{NoProcess}, Askers: []Asker{Other}, Ports: []Port{Published, OnAddress}, At: []At{AtNode, AtSecond}, Networks: publishing(), Does: No},
			},
		},
	}
}
