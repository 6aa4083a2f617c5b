// Package feature asks the running kernel what it can do, by doing it in a
// network namespace that is gone afterwards.
package feature

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Feature is something a kernel has or lacks, by its usual name.
type Feature string

// The features that can be asked for.
const (
	Namespaces Feature = "network namespaces" // and the right to make them
	IPVS       Feature = "IPVS"
	VXLAN      Feature = "VXLAN"
	NFT        Feature = "nftables" // the program, and NAT, conntrack zones and fib in the kernel
	Egress     Feature = "nftables egress hook"
	WireGuard  Feature = "WireGuard"
	Netem      Feature = "netem"
	SCTP       Feature = "SCTP sockets"

	IPTables       Feature = "iptables with nftables" // the programs, and what they need in the kernel
	LegacyIPTables Feature = "iptables-legacy"

	BridgeNetfilter Feature = "bridge netfilter" // what stays on a bridge is shown to iptables too
)

// Mesh lists what the routing mesh needs.
func Mesh() []Feature { return []Feature{Namespaces, VXLAN, NFT, Egress} }

// List is the features as a person lists them.
func List(fs []Feature) string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = string(f)
	}
	return strings.Join(names, ", ")
}

// Missing gives those of the features that this kernel lacks, or that this
// process may not use. Modules are loaded where the kernel does so by itself.
func Missing(fs ...Feature) []Feature {
	result := make(chan []Feature)
	go func() {
		// The thread stays locked and so ends with this goroutine: the namespace
		// goes with it, and no other code can run there.
		runtime.LockOSThread()
		home, err := netns.New()
		if err != nil {
			result <- fs
			return
		}
		home.Close()
		var missing []Feature
		for _, f := range fs {
			if f.try() != nil {
				missing = append(missing, f)
			}
		}
		result <- missing
	}()
	return <-result
}

// try uses the feature in the calling thread's namespace, which is a scratch one.
func (f Feature) try() error {
	switch f {
	case Namespaces:
		return nil // the caller has made one
	case IPVS:
		_, err := netlink.GenlFamilyGet("IPVS")
		return err
	case VXLAN:
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "probe"}, VxlanId: 1, Port: 4789})
	case NFT:
		return load(ruleset)
	case Egress:
		return load(egressRuleset)
	case WireGuard:
		return netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "probewg"}})
	case Netem:
		return tryNetem()
	case SCTP:
		return trySCTP()
	case IPTables:
		return tryIPTables("iptables-nft", "ip6tables-nft")
	case LegacyIPTables:
		return tryIPTables("iptables-legacy", "ip6tables-legacy")
	case BridgeNetfilter:
		return tryBridgeNetfilter()
	}
	return fmt.Errorf("unknown feature %q", string(f))
}

func tryNetem() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.QdiscReplace(netlink.NewNetem(
		netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		netlink.NetemQdiscAttrs{Latency: 1000}))
}

func trySCTP() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// tryBridgeNetfilter loads the module, as nothing does by itself.
func tryBridgeNetfilter() error {
	const settings = "/proc/sys/net/bridge"
	if _, err := os.Stat(settings); err == nil {
		return nil
	}
	if said, err := exec.Command("modprobe", "br_netfilter").CombinedOutput(); err != nil {
		return fmt.Errorf("load br_netfilter: %w: %s", err, bytes.TrimSpace(said))
	}
	_, err := os.Stat(settings)
	return err
}

func tryIPTables(programs ...string) error {
	for _, p := range programs {
		if said, err := exec.Command(p, "-A", "FORWARD", "-m", "comment", "--comment", "probe", "-j", "REJECT").CombinedOutput(); err != nil {
			return fmt.Errorf("run %s: %w: %s", p, err, bytes.TrimSpace(said))
		}
	}
	return nil
}

// ruleset has one rule of every kind that a plan's ordinary tables use.
const ruleset = `table inet probe {
	map zones { type ether_addr : mark; }
	set ports { type inet_proto . inet_service; }
	chain zone { type filter hook prerouting priority -300; ct original zone set 1; fib daddr type local counter; }
	chain capture { type nat hook prerouting priority -100; ip daddr 127.0.0.1 meta l4proto . th dport @ports dnat ip to 169.254.77.2; }
	chain out { type nat hook postrouting priority 100; masquerade; }
	chain in { type filter hook input priority 0; ct state invalid drop; reject with icmpx port-unreachable; }
}`

// egressRuleset takes marked packets off a device and sends them out at another.
const egressRuleset = `table netdev probe {
	chain out { type filter hook egress device "lo" priority 0; meta mark & 0x80000000 != 0 fwd to "lo"; }
}`

func load(text string) error {
	c := exec.Command("nft", "-f", "-")
	c.Stdin = strings.NewReader(text)
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("load rules: %w: %s", err, bytes.TrimSpace(said))
	}
	return nil
}
