package cluster

import (
	"context"
	"fmt"
	"syscall"
)

// KillAgent ends the node's agent with SIGKILL and waits until it is gone: it had no
// chance to say or to save anything. What it made in the kernel stays.
func (n *Node) KillAgent() error {
	if err := n.agent.running(); err != nil {
		return fmt.Errorf("kill agent of %s: %w", n.Name, err)
	}
	err := n.agent.signal(syscall.SIGKILL)
	<-n.agent.done
	return err
}

// RestartAgent starts the agent of a node whose agent has ended, with the same arguments and
// the same data, and returns when it answers. Its log goes on in the same file.
func (n *Node) RestartAgent(ctx context.Context) error {
	select {
	case <-n.agent.done:
		return n.startAgent(ctx)
	default:
		return fmt.Errorf("restart agent of %s: it still runs", n.Name)
	}
}

// SwitchBalancer starts the node's agent again with another --balancer.
func (n *Node) SwitchBalancer(ctx context.Context, balancer string) error {
	return n.startAgain(ctx, func() { n.balancer = balancer })
}

// SwitchFirewall starts the node's agent again with another --firewall; "": open.
func (n *Node) SwitchFirewall(ctx context.Context, setting string) error {
	return n.startAgain(ctx, func() { n.firewall = setting })
}

func (n *Node) startAgain(ctx context.Context, change func()) error {
	if err := n.StopAgent(); err != nil {
		return fmt.Errorf("stop agent of %s: %w", n.Name, err)
	}
	change()
	return n.startAgent(ctx)
}

// Switch is SwitchBalancer for one node after the other; it returns when each one's kernel
// is what its plan says.
func (c *Cluster) Switch(ctx context.Context, balancer string) error {
	for _, n := range c.Nodes {
		if err := n.SwitchBalancer(ctx, balancer); err != nil {
			return err
		}
	}
	c.Balancer = balancer
	for _, n := range c.Nodes {
		if err := eventually(ctx, n.Name+" has settled", func() error { return n.settled(ctx) }); err != nil {
			return err
		}
	}
	return nil
}
