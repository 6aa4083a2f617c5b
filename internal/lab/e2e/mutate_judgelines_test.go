package e2e

// judgeLines are of the rules that a node has more where it respects the host's firewall.
func judgeLines() []line {
	return []line{
		{part: "prerouting: iifname @own_bridges fib daddr type local jump capture", by: []string{"a denied port, an endpoint of another bridge, ipv4, tcp", "a denied port, an endpoint of another bridge, ipv6, tcp", "a denied port, an endpoint of another bridge, ipv4, udp", "a denied port, an endpoint of another bridge, ipv6, udp"}, world: respectWorld},
		{part: `prerouting: iifname "sl-o*" fib daddr type local jump capture`, by: []string{"a denied port, an overlay endpoint, ipv4, tcp", "a denied port, an overlay endpoint, ipv6, tcp", "a denied port, an overlay endpoint, ipv4, udp", "a denied port, an overlay endpoint, ipv6, udp"}, world: respectWorld},
		{part: `prerouting: iifname "sl-judged" fib daddr type local jump capture`, by: []string{"a bridge's port, ipv4, tcp", "a bridge's port, ipv6, tcp", "a bridge's port, ipv4, udp", "a bridge's port, ipv6, udp"}, world: respectWorld},
		{part: `forward: oifname "sl-judge" counter drop`, by: []string{"a stranger to where copies go, ipv4", "a stranger to where copies go, ipv6"}, world: respectWorld},
		{part: "ip set judged: all elements", by: []string{"a bridge's port, ipv4, tcp", "a port of a range, ipv4, udp"}, world: respectWorld},
		{part: "ip set judged_at: all elements", by: []string{"a port of a range at one address, ipv4, tcp", "a mesh port at one address, ipv4, udp"}, world: respectWorld},
		{part: `ip judged: iifname "sl-judged" counter drop`, by: []string{"a copy for a port that nobody publishes, ipv4"}, world: respectWorld},
		{part: "ip judged: ct state != new accept", by: []string{"an answer to a process's own port that is published too, ipv4"}, world: respectWorld},
		{part: "ip judged: tcp flags & (fin | syn | rst | ack) != syn accept", by: []string{"the middle of a connection to a port, ipv4"}, world: respectWorld},
		{part: "ip judged: fib daddr type != local accept", by: []string{"a process's own port that is published too, to all, ipv4"}, world: respectWorld},
		{part: "ip judged: meta l4proto . th dport @judged goto let", by: []string{"a bridge's port, ipv4, tcp", "a port of a range, ipv4, udp"}, world: respectWorld},
		{part: "ip judged: ip daddr . meta l4proto . th dport @judged_at goto let", by: []string{"a port of a range at one address, ipv4, tcp", "a mesh port at one address, ipv4, udp"}, world: respectWorld},
		{part: `ip let: dup to 169.254.79.2 device "sl-judge"`, by: []string{"a bridge's port, ipv4, tcp", "a bridge's port, ipv4, udp"}, world: respectWorld},
		{part: "ip let: counter drop", by: []string{"a process's own port that is published too, ipv4"}, world: respectWorld},
		{part: "ip6 set judged: all elements", by: []string{"a bridge's port, ipv6, tcp", "a port of a range, ipv6, udp"}, world: respectWorld},
		{part: "ip6 set judged_at: all elements", by: []string{"a port of a range at one address, ipv6, tcp", "a mesh port at one address, ipv6, udp"}, world: respectWorld},
		{part: `ip6 judged: iifname "sl-judged" counter drop`, by: []string{"a copy for a port that nobody publishes, ipv6"}, world: respectWorld},
		{part: "ip6 judged: ip6 saddr fe80::/10 accept", by: []string{"a process's own port that is published too, from a link-local address"}, world: respectWorld},
		{part: "ip6 judged: ip6 daddr fe80::/10 accept", by: []string{"a process's own port that is published too, at a link-local address"}, world: respectWorld},
		{part: "ip6 judged: ct state != new accept", by: []string{"an answer to a process's own port that is published too, ipv6"}, world: respectWorld},
		{part: "ip6 judged: tcp flags & (fin | syn | rst | ack) != syn accept", by: []string{"the middle of a connection to a port, ipv6"}, world: respectWorld},
		{part: "ip6 judged: fib daddr type != local accept", by: []string{"a process's own port that is published too, to all, ipv6"}, world: respectWorld},
		{part: "ip6 judged: meta l4proto . th dport @judged goto let", by: []string{"a bridge's port, ipv6, tcp", "a port of a range, ipv6, udp"}, world: respectWorld},
		{part: "ip6 judged: ip6 daddr . meta l4proto . th dport @judged_at goto let", by: []string{"a port of a range at one address, ipv6, tcp", "a mesh port at one address, ipv6, udp"}, world: respectWorld},
		{part: `ip6 let: dup to fd79::2 device "sl-judge"`, by: []string{"a bridge's port, ipv6, tcp", "a bridge's port, ipv6, udp"}, world: respectWorld},
		{part: "ip6 let: counter drop", by: []string{"a process's own port that is published too, ipv6"}, world: respectWorld},
	}
}
