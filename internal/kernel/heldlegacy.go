package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// legacyWait is for one answer of iptables-legacy-save.
const legacyWait = 10 * time.Second

// legacyTakers are the takers among the rules of iptables' older half. Where it has no
// NAT table it is not asked: asking would make one.
func (k *Kernel) legacyTakers() ([]taker, error) {
	var takers []taker
	err := k.host.do(func() error {
		for _, half := range []struct{ names, program, family string }{
			{"ip_tables_names", "iptables-legacy-save", "ip"},
			{"ip6_tables_names", "ip6tables-legacy-save", "ip6"},
		} {
			names, err := os.ReadFile("/proc/thread-self/net/" + half.names)
			if err != nil || !bytes.Contains(append([]byte("\n"), names...), []byte("\nnat\n")) {
				continue
			}
			text, err := runLegacy(half.program)
			if err != nil {
				return err
			}
			takers = append(takers, parseLegacy(text, half.family)...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list rules of iptables-legacy: %w", err)
	}
	return takers, nil
}

// runLegacy gives the rules; none where the program that could tell is not there.
func runLegacy(program string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), legacyWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-t", "nat")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w", program, err)
	}
	return string(out), nil
}

// parseLegacy reads what iptables-save prints: "-A DOCKER -d 192.0.2.1/32 ! -i docker0
// -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80".
func parseLegacy(text, family string) []taker {
	var takers []taker
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" {
			continue
		}
		r := legacyRule{taker: taker{family: family, table: "nat", chain: words[1], legacy: true, four: family == "ip", six: family == "ip6"}}
		for i := 2; i+1 < len(words); i++ {
			if words[i-1] != "!" {
				r.option(words[i], words[i+1])
			}
		}
		if r.leads && len(r.spans) > 0 {
			for i := range r.spans {
				r.spans[i].protocol = r.protocol
			}
			takers = append(takers, r.taker)
		}
	}
	return takers
}

type legacyRule struct {
	taker
	protocol uint8
	leads    bool
}

func (r *legacyRule) option(name, value string) {
	switch name {
	case "-d":
		if p, err := netip.ParsePrefix(value); err == nil && p.IsSingleIP() {
			r.addr = p.Addr()
		}
	case "-p":
		r.protocol = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[value]
	case "--dport", "--dports", "--ports":
		for ports := range strings.SplitSeq(value, ",") {
			from, to, ranged := strings.Cut(ports, ":")
			if !ranged {
				to = from
			}
			first, err := strconv.ParseUint(from, 10, 16)
			last, err2 := strconv.ParseUint(to, 10, 16)
			if err == nil && err2 == nil {
				r.spans = append(r.spans, span{first: uint16(first), last: uint16(last)})
			}
		}
	case "-j":
		r.leads = value == "DNAT" || value == "REDIRECT"
	}
}
