package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Conf is what a resolv.conf says.
type Conf struct {
	Upstreams []netip.AddrPort // always port 53
	Search    []string
	Options   []string // as they stand there: "ndots:2", "edns0"
}

const (
	maxConf    = 64 << 10 // bytes read of a resolv.conf
	maxSearch  = 32       // domains; glibc before 2.26 took six
	maxOptions = 32
)

// ParseConf reads the text of a resolv.conf as glibc does: what it does not know it passes
// over. The last of several search or domain lines counts; options add up.
func ParseConf(text string) Conf {
	if len(text) > maxConf {
		text = text[:maxConf]
	}
	var c Conf
	for line := range strings.Lines(text) {
		if at := strings.IndexAny(line, "#;"); at >= 0 {
			line = line[:at]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch rest := fields[1:]; fields[0] {
		case "nameserver":
			ip, err := netip.ParseAddr(rest[0])
			if err == nil && len(c.Upstreams) < maxUpstreams {
				c.Upstreams = append(c.Upstreams, netip.AddrPortFrom(ip.Unmap(), 53))
			}
		case "search":
			c.Search = slices.Clone(rest[:min(len(rest), maxSearch)])
		case "domain":
			c.Search = []string{rest[0]}
		case "options":
			c.Options = append(c.Options, rest...)
			c.Options = c.Options[:min(len(c.Options), maxOptions)]
		}
	}
	return c
}

// Ndots returns the ndots option; false where there is none, which is 1 for a resolver.
func (c Conf) Ndots() (int, bool) {
	n, set := 0, false
	for _, option := range c.Options {
		if text, ok := strings.CutPrefix(option, "ndots:"); ok {
			if value, err := strconv.Atoi(text); err == nil && value >= 0 {
				n, set = min(value, 15), true // glibc's limit
			}
		}
	}
	return n, set
}

// EndpointConf is the text of an endpoint's resolv.conf under the host's, or under what the
// user said in its place: our server, the same search list, the same options. Without an ndots
// of its own it gets ndots:0, as with Docker, so that a name of the cluster is asked for as it
// stands before the search list is tried. A search list of "." is an empty one.
func EndpointConf(c Conf) string {
	var b strings.Builder
	b.WriteString("# Written by sluice: names of the cluster and everything else are answered by one server.\n")
	b.WriteString("nameserver " + EndpointAddr + "\n")
	search := slices.DeleteFunc(slices.Clone(c.Search), unfit)
	if len(search) > 0 && !slices.Equal(search, []string{"."}) {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	options := slices.DeleteFunc(slices.Clone(c.Options), unfit)
	if _, set := c.Ndots(); !set {
		options = append(options, "ndots:0")
	}
	b.WriteString("options " + strings.Join(options, " ") + "\n")
	return b.String()
}

// unfit says whether a word would not be read again as the one word that it is.
func unfit(word string) bool {
	return len(strings.Fields(word)) != 1 || strings.TrimSpace(word) != word || strings.ContainsAny(word, "#;\x00")
}
