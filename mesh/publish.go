package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// rangeLimit is how many PublishedPorts one SPEC may make.
const rangeLimit = 1024

const publishExample = "write it like 8080:80, 53:5353/udp, 192.0.2.1:8080:80, [2001:db8::1]:8080:80, 8000-8009:9000-9009/tcp or 8080:80,mode=host"

func badPublish(spec, why string, args ...any) error {
	return Refuse(BadPublish, publishExample, "publish %.80q: %s", spec, fmt.Sprintf(why, args...))
}

// ParsePublish reads [ADDR:]PUBLISHED[-END]:TARGET[-END][/PROTO][,OPTION...]. It returns one
// PublishedPort a port, and one for a whole range that keeps its numbers on its node alone
// (mode=host). What PublishedPort.String gives parses to the same.
func ParsePublish(spec string) ([]PublishedPort, error) {
	head, options, _ := strings.Cut(spec, ",")
	form, err := parsePublishOptions(spec, options)
	if err != nil {
		return nil, err
	}
	ports, named, ok := strings.Cut(head, "/")
	if form.Proto = TCP; ok {
		form.Proto = Proto(named)
	}
	if form.Proto != TCP && form.Proto != UDP && form.Proto != SCTP {
		return nil, badPublish(spec, "protocol %.20q is not tcp, udp or sctp", string(form.Proto))
	}
	if form.Addr, ports, err = cutPublishAddr(spec, ports); err != nil {
		return nil, err
	}
	left, right, ok := strings.Cut(ports, ":")
	if !ok {
		return nil, badPublish(spec, "the target port is missing")
	}
	published, err := parsePorts(spec, "published", left)
	if err != nil {
		return nil, err
	}
	target, err := parsePorts(spec, "target", right)
	if err != nil {
		return nil, err
	}
	if published.count != target.count {
		return nil, badPublish(spec, "%d published ports cannot lead to %d target ports", published.count, target.count)
	}
	return form.ranged(spec, published, target)
}

// ranged is p for each port of a range, or for all of them where that is one.
func (p PublishedPort) ranged(spec string, published, target portRange) ([]PublishedPort, error) {
	p.Published, p.Target = published.first, target.first
	if p.Mode == Hosted && published.first == target.first && published.count > 1 {
		p.Last = published.first + uint16(published.count-1)
		return []PublishedPort{p}, nil
	}
	if published.count > rangeLimit {
		return nil, badPublish(spec, "the range has %d ports, the limit is %d, but for mode=host with the same numbers on both sides", published.count, rangeLimit)
	}
	list := make([]PublishedPort, published.count)
	for i := range list {
		list[i] = p
		list[i].Published += uint16(i)
		list[i].Target += uint16(i)
	}
	return list, nil
}

// parsePublishOptions takes each option once, but for sources. It refuses what is in the grammar
// but not built, and what is not in the grammar.
func parsePublishOptions(spec, options string) (PublishedPort, error) {
	var form PublishedPort
	if options == "" && !strings.HasSuffix(spec, ",") {
		return form, nil
	}
	var sources []string
	moded := false
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case option == "":
			return form, badPublish(spec, "an option is missing after the comma")
		case key == "mode" && moded:
			return form, badPublish(spec, "mode is given twice")
		case option == "mode=ingress":
			moded = true
		case option == "mode=host":
			form.Mode, moded = Hosted, true
		case key == "source" && value != "":
			sources = append(sources, value)
		case key == "nodes" && value != "":
			return form, Refuse(Unsupported, "leave nodes= out: the port is then published on every node", "publish %.80q: nodes= is not built yet", spec)
		default:
			return form, badPublish(spec, "option %.40q is not mode=ingress, mode=host, source=CIDR or nodes=LABEL=VALUE", option)
		}
	}
	var err error
	if form.Sources, err = ParseSources(strings.Join(sources, ",")); err != nil {
		return form, fmt.Errorf("publish %.80q: %w", spec, err)
	}
	return form, nil
}

// cutPublishAddr takes the address off the front. An IPv6 address is in brackets, so
// that its colons are told from the ports'.
func cutPublishAddr(spec, s string) (netip.Addr, string, error) {
	var text, ports string
	bracket := strings.HasPrefix(s, "[")
	switch {
	case bracket:
		var ok bool
		if text, ports, ok = strings.Cut(s[1:], "]:"); !ok {
			return netip.Addr{}, "", badPublish(spec, "the address in brackets does not end with ]:")
		}
	case strings.Count(s, ":") == 2:
		text, ports, _ = strings.Cut(s, ":")
	case strings.Count(s, ":") > 2:
		return netip.Addr{}, "", badPublish(spec, "there are too many colons; an IPv6 address belongs in brackets")
	default:
		return netip.Addr{}, s, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, "", badPublish(spec, "%.60q is not an IP address", text)
	}
	if addr.Is6() != bracket {
		return netip.Addr{}, "", badPublish(spec, "an IPv6 address is in brackets and an IPv4 address is not")
	}
	if addr.IsUnspecified() {
		return netip.Addr{}, "", badPublish(spec, "leave the address out to publish on all addresses")
	}
	if !publishable(addr) {
		return netip.Addr{}, "", badPublish(spec, "%.60q is not a unicast address of a node", text)
	}
	return addr, ports, nil
}

type portRange struct {
	first uint16
	count int
}

func parsePorts(spec, what, s string) (portRange, error) {
	from, to, ranged := strings.Cut(s, "-")
	first, err := parsePort(spec, what, from)
	if err != nil || !ranged {
		return portRange{first, 1}, err
	}
	last, err := parsePort(spec, what, to)
	if err != nil {
		return portRange{}, err
	}
	if last < first {
		return portRange{}, badPublish(spec, "the %s range %d-%d runs backwards", what, first, last)
	}
	return portRange{first, int(last) - int(first) + 1}, nil
}

func parsePort(spec, what, s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, badPublish(spec, "%s port %.20q is not a number from 1 to 65535", what, s)
	}
	return uint16(n), nil
}

const sshPort = 22

// CheckReserved refuses to publish what would lock the operator out or cut the
// node off from the others: ssh, and the ports of sluice itself.
func CheckReserved(ports []PublishedPort, own ...uint16) error {
	for _, p := range ports {
		in := func(port uint16) bool { return p.Published <= port && port <= p.End() }
		whose := ""
		switch i := slices.IndexFunc(own, in); {
		case p.Proto == TCP && in(sshPort):
			whose = fmt.Sprintf("%d is ssh's", sshPort)
		case i >= 0:
			whose = fmt.Sprintf("%d is sluice's own", own[i])
		default:
			continue
		}
		return Refuse(PortReserved, "choose another port, or use --force", "port %s: %s", p.Front(), whose)
	}
	return nil
}
