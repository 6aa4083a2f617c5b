package kernel

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/sluice-mesh/sluice/internal/doctor"
	"github.com/sluice-mesh/sluice/internal/plan"
)

// ports looks who has those that the agent and its tunnels need, in the calling thread's
// namespace.
func (i *inspector) ports() error {
	i.facts.Ports = []doctor.Port{
		{Use: "gossip", Proto: "tcp", Number: i.GossipPort},
		{Use: "gossip", Proto: "udp", Number: i.GossipPort},
		{Use: "vxlan", Proto: "udp", Number: i.VXLANPort},
	}
	for n := range i.facts.Ports {
		p := &i.facts.Ports[n]
		inodes, err := boundSockets(p.Proto, p.Number)
		if err != nil {
			return err
		}
		p.Holders = portHolders(inodes)
		for m := range p.Holders {
			h := &p.Holders[m]
			h.Kernel = h.PID == 0 && p.Proto == "udp" && i.tunnelOn(p.Number)
		}
	}
	return nil
}

// tunnelOn tells whether a VXLAN device uses a port of the host. Its socket is the kernel's,
// and looks like one of a process that is not seen.
func (i *inspector) tunnelOn(port uint16) bool {
	onPort := func(l netlink.Link) bool {
		v, ok := l.(*netlink.Vxlan)
		return ok && v.Port == int(port)
	}
	if links, err := i.host.list(); err == nil && slices.ContainsFunc(links, onPort) {
		return true
	}
	for _, s := range i.facts.RunDir.Sandboxes {
		n, err := openNamespace(s, plan.KindNetwork, filepath.Join(i.RunDir, netnsName, s))
		if err != nil {
			continue // it went meanwhile
		}
		links, err := n.list()
		n.close()
		if err == nil && slices.ContainsFunc(links, onPort) {
			return true
		}
	}
	return false
}

// The state of a TCP socket that listens (net/tcp_states.h).
const tcpListens = "0A"

// boundSockets lists the inodes of the sockets that are bound to a port.
func boundSockets(proto string, port uint16) (map[string]bool, error) {
	inodes := map[string]bool{}
	for _, family := range []string{"", "6"} {
		file, err := os.Open("/proc/thread-self/net/" + proto + family)
		if os.IsNotExist(err) {
			continue // a kernel without this family
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
			f := strings.Fields(lines.Text())
			if len(f) < 10 || proto == "tcp" && f[3] != tcpListens {
				continue
			}
			_, number, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(number, 16, 16); err == nil && uint16(n) == port {
				inodes[f[9]] = true
			}
		}
		file.Close()
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
	}
	return inodes, nil
}

// portHolders are the processes that have the sockets open. A socket that none is found for
// belongs to the kernel, or to a process that this one may not look at.
func portHolders(inodes map[string]bool) []doctor.Holder {
	var found []doctor.Holder
	if len(inodes) == 0 {
		return found
	}
	left := len(inodes)
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is right
	seen := map[string]bool{}
	for _, file := range files {
		target, err := os.Readlink(file)
		if err != nil {
			continue
		}
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		inode = strings.TrimSuffix(inode, "]")
		if !isSocket || !inodes[inode] || seen[inode] {
			continue
		}
		seen[inode] = true
		left--
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2]) // digits, as the pattern says
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		found = append(found, doctor.Holder{PID: pid, Name: strings.TrimSpace(string(name))})
	}
	if left > 0 {
		found = append(found, doctor.Holder{})
	}
	return found
}
