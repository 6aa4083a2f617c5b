package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// rangeLimit is how many ports one SPEC may publish.
const rangeLimit = 1024

const publishExample = "write it like 8080:80, 53:5353/udp, 192.0.2.1:8080:80, [2001:db8::1]:8080:80 or 8000-8009:9000-9009/tcp"

func badPublish(spec, why string, args ...any) error {
	return Refuse(BadPublish, publishExample, "publish %.80q: %s", spec, fmt.Sprintf(why, args...))
}

// ParsePublish reads [ADDR:]PUBLISHED[-END]:TARGET[-END][/PROTO][,OPTION...] and
// returns one PublishedPort a port. What PublishedPort.String gives parses to the same.
func ParsePublish(spec string) ([]PublishedPort, error) {
	head, options, _ := strings.Cut(spec, ",")
	if err := checkPublishOptions(spec, options); err != nil {
		return nil, err
	}
	proto := TCP
	ports, named, ok := strings.Cut(head, "/")
	if ok {
		proto = Proto(named)
	}
	if proto != TCP && proto != UDP && proto != SCTP {
		return nil, badPublish(spec, "protocol %.20q is not tcp, udp or sctp", string(proto))
	}
	addr, ports, err := cutPublishAddr(spec, ports)
	if err != nil {
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
	list := make([]PublishedPort, published.count)
	for i := range list {
		list[i] = PublishedPort{Addr: addr, Proto: proto, Published: published.first + uint16(i), Target: target.first + uint16(i)}
	}
	return list, nil
}

// checkPublishOptions refuses what is in the grammar but not built, and what is not in the grammar.
func checkPublishOptions(spec, options string) error {
	if options == "" {
		if strings.HasSuffix(spec, ",") {
			return badPublish(spec, "an option is missing after the comma")
		}
		return nil
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case option == "mode=ingress":
		case option == "mode=host":
			return Refuse(Unsupported, "leave mode=host out: the port is then published on every node", "publish %.80q: mode host is not built yet", spec)
		case key == "source" && value != "":
			return Refuse(Unsupported, "leave source= out and limit who may connect in the firewall of each host", "publish %.80q: source= is not built yet", spec)
		case key == "nodes" && value != "":
			return Refuse(Unsupported, "leave nodes= out: the port is then published on every node", "publish %.80q: nodes= is not built yet", spec)
		default:
			return badPublish(spec, "option %.40q is not mode=ingress, mode=host, source=CIDR or nodes=LABEL=VALUE", option)
		}
	}
	return nil
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
	count := int(last) - int(first) + 1
	if count > rangeLimit {
		return portRange{}, badPublish(spec, "the %s range has %d ports, the limit is %d", what, count, rangeLimit)
	}
	return portRange{first, count}, nil
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
		whose := ""
		switch {
		case p.Proto == TCP && p.Published == sshPort:
			whose = "ssh's"
		case slices.Contains(own, p.Published):
			whose = "sluice's own"
		default:
			continue
		}
		return Refuse(PortReserved, "choose another port, or use --force", "port %s is %s", p.Front(), whose)
	}
	return nil
}
