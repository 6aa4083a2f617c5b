// Package footprint writes down all that a program could have left on a host, as
// text, so that before and after can be compared.
package footprint

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Run runs a program in the host's network namespace and returns what it printed.
type Run func(ctx context.Context, name string, args ...string) (string, error)

// Take writes down the devices, addresses, rules, routes, neighbours, nft rules and
// settings of a host, and the mounts below dir. What changes by itself is left
// out: see volatile.
func Take(ctx context.Context, dir string, run Run) ([]string, error) {
	var lines []string
	for _, command := range []string{
		"ip -d link", "ip address", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
		"ip neighbour show nud permanent", "bridge fdb show", "nft list ruleset",
		// Some files may only be written; grep then says so by its status.
		"grep -rsH '' /proc/sys/net || test $? = 2",
	} {
		text, err := run(ctx, "sh", "-c", command)
		if err != nil {
			return nil, fmt.Errorf("take footprint: %w", err)
		}
		var part []string
		for line := range strings.Lines(text) {
			if line = cleaned(line); line != "" {
				part = append(part, command+": "+line)
			}
		}
		if strings.HasPrefix(command, "grep") {
			slices.Sort(part) // a directory has no order
		}
		lines = append(lines, part...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("take footprint: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			lines = append(lines, "mount "+strings.TrimSpace(line))
		}
	}
	return lines, nil
}

var (
	// Timers of bridges run, and traffic makes entries.
	timers = regexp.MustCompile(` (hello|tcn|topology_change|gc|hold|message_age|forward_delay)_timer +[0-9.]+|fdb_n_learned [0-9]+`)
	// volatile are settings that count, or that the kernel tunes by itself, and what a bridge
	// has learned from traffic: entries without a state.
	volatile = regexp.MustCompile(`^/proc/sys/net/netfilter/nf_conntrack_(count|buckets):|^[0-9a-f:]{17} dev \S+ (vlan \d+ )?master \S+ *\n?$`)
)

// cleaned is a line without what changes by itself; "" where nothing is left.
func cleaned(line string) string {
	if volatile.MatchString(line) {
		return ""
	}
	return strings.TrimRight(timers.ReplaceAllString(line, ""), " \n")
}
