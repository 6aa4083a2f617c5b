package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// hopServer is n3's address on the bare VXLAN hop.
const hopServer = "10.99.0.3"

// script runs iproute2, nft and ipvsadm commands in a namespace.
func script(ctx context.Context, where *space.Space, commands string) error {
	if out, err := where.Run(ctx, "sh", "-ec", commands); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

// hop is a VXLAN device on the client and one on n3, and nothing else.
func hop(ctx context.Context, c *cluster.Cluster) error {
	three := c.Node("n3")
	for _, end := range []struct {
		host   cluster.Host
		own    string
		remote string
	}{
		{c.Client, "10.99.0.100", three.V4.String()},
		{three.Host, hopServer, c.Client.V4.String()},
	} {
		err := script(ctx, end.host.Space, fmt.Sprintf(`
			ip link add bare type vxlan id 99 dstport 4790 local %s remote %s nolearning
			ip addr add %s/24 dev bare
			ip link set bare up mtu 1450`, end.host.V4, end.remote, end.own))
		if err != nil {
			return fmt.Errorf("make VXLAN hop: %w", err)
		}
	}
	return nil
}

// swarmPath is what Docker Swarm's ingress does for port 7070, by hand: on the
// entry node n2 DNAT to a sandbox, there mark, IPVS and source NAT; a bridged VXLAN to
// n3; in the task's namespace a redirect to the target port. The task sees 10.98.0.2.
func swarmPath(ctx context.Context, c *cluster.Cluster) (string, error) {
	two, three := c.Node("n2"), c.Node("n3")
	sbox, err := c.Space("swarm-sbox")
	if err != nil {
		return "", err
	}
	task, err := c.Space("swarm-task")
	if err != nil {
		return "", err
	}
	steps := []struct {
		where *space.Space
		text  string
	}{
		{two.Space, fmt.Sprintf(swarmEntry, two.V4, three.V4, sbox.Path)},
		{sbox, swarmSandbox},
		{two.Space, swarmCapture},
		{three.Space, fmt.Sprintf(swarmBackend, three.V4, two.V4, task.Path)},
		{task, swarmTask},
	}
	for i, s := range steps {
		if err := script(ctx, s.where, s.text); err != nil {
			return "", fmt.Errorf("make Swarm's path, step %d: %w", i, err)
		}
	}
	return fmt.Sprintf("http://%s:7070/", two.V4), c.Serve(task, "swarm")
}

// A namespace is given to iproute2 as the process that holds it open: nsenter's.
const (
	swarmEntry = `
		ip link add sw-br type bridge; ip link set sw-br up
		ip link add sw-vx type vxlan id 4097 dstport 4791 local %[1]s remote %[2]s
		ip link set sw-vx master sw-br mtu 1450 up
		ip link add sw-gw type veth peer name gw
		ip link add sw-ov type veth peer name ov mtu 1450
		ip link set sw-ov master sw-br mtu 1450 up
		ip addr add 172.19.0.1/24 dev sw-gw; ip link set sw-gw up
		nsenter --net=%[3]s sleep 60 & holder=$!; sleep 0.3
		ip link set gw netns $holder; ip link set ov netns $holder; kill $holder`
	swarmSandbox = `
		ip addr add 172.19.0.2/24 dev gw; ip link set gw up; ip route add default via 172.19.0.1
		ip addr add 10.98.0.2/24 dev ov; ip link set ov up
		sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1
		ipvsadm -A -f 256 -s rr; ipvsadm -a -f 256 -r 10.98.0.5 -m
		nft 'table ip swarm {
			chain pre {
				type filter hook prerouting priority mangle
				tcp dport 7070 meta mark set 256
			}
			chain post {
				type nat hook postrouting priority srcnat
				ip daddr 10.98.0.0/24 snat to 10.98.0.2
			}
		}'`
	swarmCapture = `
		nft 'table ip swarm {
			chain pre {
				type nat hook prerouting priority dstnat
				fib daddr type local tcp dport 7070 dnat to 172.19.0.2:7070
			}
			chain post {
				type nat hook postrouting priority srcnat
				ip saddr 172.19.0.0/24 oifname != "sw-gw" masquerade
			}
		}'`
	swarmBackend = `
		ip link add sw-br type bridge; ip link set sw-br up
		ip link add sw-vx type vxlan id 4097 dstport 4791 local %[1]s remote %[2]s
		ip link set sw-vx master sw-br mtu 1450 up
		ip link add sw-ov type veth peer name ov mtu 1450
		ip link set sw-ov master sw-br mtu 1450 up
		nsenter --net=%[3]s sleep 60 & holder=$!; sleep 0.3
		ip link set ov netns $holder; kill $holder`
	swarmTask = `
		ip addr add 10.98.0.5/24 dev ov; ip link set ov up
		nft 'table ip swarm {
			chain pre {
				type nat hook prerouting priority dstnat
				ip daddr 10.98.0.5 tcp dport 7070 redirect to :80
			}
		}'`
)
