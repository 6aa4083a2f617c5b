package doctor

import (
	"strings"
)

// Firewall is a table of another program that is asked about what the host forwards
// or receives.
type Firewall struct {
	Table   string // "iptables table filter"
	Chains  []string
	Unread  string // why nobody can tell what is in it; empty where it was read
	Forward Forward
	Closed  []Closed
}

// Forward is what becomes of the mesh's packets in a Firewall.
type Forward string

// What it may be.
const (
	Through   Forward = "through"   // nothing in it drops what no rule names
	Let       Forward = "let"       // it does, and sluice's devices are let through
	Forbidden Forward = "forbidden" // it does, and nobody lets them through
)

// Closed is a port that other nodes have to reach and that a Firewall may drop.
type Closed struct {
	Port string // tcp/7956
	Open string // a command that opens it
}

func firewalls(f *Facts) []Check {
	var all []Check
	for _, w := range f.Firewalls {
		all = append(all, w.forward(f), w.input())
	}
	if len(all) == 0 {
		return []Check{ok("firewalls", "no other program's rules are asked about what is forwarded or received")}
	}
	return all
}

func (w Firewall) forward(f *Facts) Check {
	name := "forwarding by " + w.Table
	switch {
	case w.Unread != "":
		return warn(name, "install the program that made it, or look at its rules for sl-ingress, sl-b* and sl-o*", "its rules cannot be read: %s", w.Unread)
	case w.Forward == Let:
		return ok(name, "it drops what no rule names (%s), and sluice's devices are let through", strings.Join(w.Chains, ", "))
	case w.Forward != Forbidden:
		return ok(name, "it drops nothing that no rule names")
	case f.Agent.State == Running && f.Agent.InCluster:
		return fail(name, "see sluice status and the agent's log", "it drops what no rule names (%s), and the agent has not let sluice's devices through", strings.Join(w.Chains, ", "))
	default:
		return ok(name, "it drops what no rule names; an agent in a cluster lets sluice's devices through")
	}
}

func (w Firewall) input() Check {
	name := "receiving by " + w.Table
	if len(w.Closed) == 0 {
		return ok(name, "no port that other nodes have to reach is dropped for want of a rule")
	}
	var ports, open []string
	for _, c := range w.Closed {
		ports, open = append(ports, c.Port), append(open, c.Open)
	}
	return warn(name, strings.Join(open, "; ")+" (or from the other nodes only)",
		"it may drop %s, which other nodes have to reach: no rule is seen that accepts it from everybody", strings.Join(ports, ", "))
}
