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

// Switch ends one agent after the other and starts it again with another balancer; it
// returns when each node's kernel is what its plan says.
func (c *Cluster) Switch(ctx context.Context, balancer string) error {
	for _, n := range c.Nodes {
		n.balancer = balancer
		if err := n.StopAgent(); err != nil {
			return fmt.Errorf("stop agent of %s: %w", n.Name, err)
		}
		if err := n.startAgent(ctx); err != nil {
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
