package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"time"

	nfnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// trial is a feature of the kernel and how it is tried, in a scratch namespace.
type trial struct {
	name string
	do   string // where it is missing
	try  func(*namespace) error

	spare   bool   // nothing uses it now
	without string // what is done without it
}

// trials are what plans are made of. The order is that of their checks.
func trials(q Inspection) []trial {
	const config = "modprobe %[1]s, or use a kernel that has it (Debian's has)"
	rules := func(name, module, text string) trial {
		return trial{name: name, do: fmt.Sprintf(config, module), try: func(n *namespace) error {
			return n.do(func() error { return n.runNFT("table " + text) })
		}}
	}
	// What a node needs that respects the host's firewall.
	copies := rules("nf_tables dup", "-a nft_dup_ipv4 nft_dup_ipv6", `ip probe9 { chain c { type filter hook input priority 0; meta mark 1 dup to 169.254.79.2 device "lo"; }
		}
		table ip6 probe9 { chain c { type filter hook input priority 0; meta mark 1 dup to fd79::2 device "lo"; }
		}`)
	copies.spare = !q.Respects
	all := []trial{
		{name: "VXLAN", do: fmt.Sprintf(config, "vxlan"), try: tryVXLAN},
		rules("nf_tables", "nf_tables", "inet probe1 { set s { type inet_service; }\n chain c { type filter hook input priority 0; counter; }\n}"),
		rules("nf_tables inet NAT", "nft_chain_nat nft_masq", `inet probe2 {
			chain c { type nat hook prerouting priority -100; meta l4proto tcp dnat ip to 169.254.77.2; }
			chain d { type nat hook postrouting priority 100; masquerade; }
		}`),
		rules("nf_tables fib", "nft_fib_inet", "inet probe3 { chain c { type filter hook prerouting priority 0; fib daddr type local counter; }\n}"),
		rules("nf_tables conntrack zones", "nft_ct", "inet probe4 { chain c { type filter hook prerouting priority -300; ct original zone set 1; }\n}"),
		rules("nf_tables reject", "nft_reject_inet", "inet probe5 { chain c { type filter hook input priority 0; reject with icmpx port-unreachable; }\n}"),
		rules("nf_tables netdev egress", "nft_fwd_netdev", `netdev probe6 { chain c { type filter hook egress device "lo" priority 0; meta mark 1 fwd to "lo"; }
		}`),
		rules("nf_tables bridge", "nf_tables", `bridge probe8 {
			set s { typeof iifname . ether saddr; }
			chain c { type filter hook prerouting priority -300; iifname . ether saddr != @s counter drop; }
		}`),
		copies,
		{
			name: "nf_tables owner", do: "use Linux 5.12 or newer", try: tryOwner,
			without: "--lock holds nothing: while another program has flushed the host's rules, until the agent has loaded them again, unpublished ports of endpoints on bridges can be reached",
		},
		{name: "IPv6", do: "boot without ipv6.disable=1", try: func(*namespace) error {
			_, err := os.Stat(path.Join(procSys, "net/ipv6"))
			return err
		}},
		{name: "policy routing", do: rulesAdvice, try: func(*namespace) error { return tryRules() }},
		{name: "route_localnet", do: "use a kernel of 3.6 or newer, with /proc/sys not hidden", try: func(n *namespace) error {
			return n.do(func() error { return writeSysctl(plan.Sysctl{Key: "net/ipv4/conf/lo/route_localnet", Value: "1"}) })
		}},
	}
	draw := rules("nf_tables numgen and jhash", "nft_numgen nft_hash", `inet probe7 {
			map m { type mark . mark : ipv4_addr . inet_service; }
			map a { type mark . ipv4_addr : mark; size 4; flags dynamic,timeout; }
			chain l { delete @a { ct mark . ip saddr : meta mark }; update @a { ct mark . ip saddr timeout 1s : meta mark }; }
			chain p { meta l4proto tcp dnat ip to ct mark . meta mark map @m; }
			chain r { meta mark set numgen random mod 4 offset 1 goto p; }
			chain c { ct mark set meta mark meta mark set jhash ip saddr mod 4 seed 0x51 offset 1 goto r; }
			chain d { type nat hook prerouting priority -100; goto c; }
		}`)
	known := HasIPVS()
	draw.spare = q.Balancer == balancerIPVS || q.Balancer == balancerAuto && known
	all = append(all, draw)
	spare := q.Balancer != balancerIPVS
	all = append(all, trial{name: FeatureIPVS, do: fmt.Sprintf(config, "ip_vs"), spare: spare, try: func(*namespace) error {
		if !known {
			return errors.New("the kernel does not know it, and its module cannot be loaded")
		}
		return nil
	}})
	if !known {
		return all // nor any of its schedulers
	}
	for n, s := range slices.Concat(q.Schedulers, q.Spare) {
		v := plan.VirtualServer{Mark: uint32(n + 1), Family: plan.IPv4, Scheduler: s}
		all = append(all, trial{
			name: "IP_VS scheduler " + s, do: fmt.Sprintf(config, "ip_vs_"+s), spare: spare || n >= len(q.Schedulers),
			try: func(scratch *namespace) error { return scratch.doIPVS(Op{Add, scratch.name, v}) },
		})
	}
	return all
}

// FeatureIPVS is the name that Inspect gives to IP_VS.
const FeatureIPVS = "IP_VS"

// What Inspection.Balancer says.
const (
	balancerIPVS = "ipvs"
	balancerAuto = "auto"
)

// tryFeatures tries all in a network namespace of its own.
func tryFeatures(all []trial) []doctor.Feature {
	scratch, err := newScratch()
	spaces := doctor.Feature{Name: "network namespaces", Do: "run this as root, on a kernel with CONFIG_NET_NS"}
	if err != nil {
		spaces.Missing = oneLine(err)
		return []doctor.Feature{spaces}
	}
	defer scratch.close()
	features := []doctor.Feature{spaces}
	for _, t := range all {
		f := doctor.Feature{Name: t.name, Do: t.do, Spare: t.spare, Without: t.without}
		if err := t.try(scratch); err != nil {
			f.Missing = oneLine(err)
		}
		features = append(features, f)
	}
	return features
}

// newScratch is an empty namespace that is gone when it is closed.
func newScratch() (*namespace, error) {
	fd, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &namespace{name: "scratch", kind: plan.KindNetwork, fd: fd}
	if n.link, err = netlink.NewHandleAt(fd, unix.NETLINK_ROUTE); err != nil {
		n.close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return n, nil
}

func tryVXLAN(n *namespace) error {
	return n.link.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VxlanId: 1, Port: 4789})
}

// tryOwner makes a table that belongs to its socket.
func tryOwner(n *namespace) error {
	err := n.transact([]nfnetlink.Message{ownedTable("probe10")})
	n.nft.close()
	return err
}

// oneLine is an error without the line of rules that nft shows below it; a refusal without
// its own advice.
func oneLine(err error) string {
	if no, refused := errors.AsType[*Refusal](err); refused {
		return no.Why
	}
	return firstError([]byte(err.Error()))
}

// versionWait is for a program that tells its version.
const versionWait = 5 * time.Second

// versionOf finds the first version in a text: "nftables v1.0.6 (Lester Gooch #5)".
var versionOf = regexp.MustCompile(`\bv?(\d+(?:\.\d+)+)`)

func findPrograms() []doctor.Program {
	var all []doctor.Program
	for _, name := range []string{"nft", "modprobe", "iptables"} {
		p := doctor.Program{Name: name}
		if found, err := exec.LookPath(name); err == nil {
			p.Path = found
			p.Version = askVersion(found)
		}
		all = append(all, p)
	}
	return all
}

// askVersion is "" where the program does not tell.
func askVersion(program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), versionWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	if found := versionOf.FindSubmatch(out); found != nil {
		return string(found[1])
	}
	return ""
}
