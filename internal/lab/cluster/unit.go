package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// thisMachine is a host whose namespace is the one that the lab is started in.
func (c *Cluster) thisMachine(name string, last byte) (Host, error) {
	s, err := space.Open("/proc/thread-self/ns/net")
	if err != nil {
		return Host{}, err
	}
	c.spaces = append(c.spaces, s)
	return c.plug(s, name, last)
}

// startUnit returns when systemd takes the agent for ready, which it must then be.
func (n *Node) startUnit(ctx context.Context) error {
	if _, err := Systemctl(ctx, "start", n.unit); err != nil {
		return err
	}
	_, err := n.Status(ctx)
	return err
}

func (n *Node) stopUnit() error {
	_, err := Systemctl(context.Background(), "stop", n.unit)
	return err
}

// Systemctl runs systemctl and returns what it printed.
func Systemctl(ctx context.Context, args ...string) (string, error) {
	said, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(string(said)), nil
}
