package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// nodeList lists the nodes of the cluster.
func (a *app) nodeList() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the nodes, * is the one that answers",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the nodes"),
				sluicev1.NewClusterServiceClient, sluicev1.ClusterServiceClient.ListNodes, &sluicev1.ListNodesRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { nodeTable(p, resp.GetNodes()) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// nodeRemove puts a node out of the cluster.
func (a *app) nodeRemove() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "rm NODE",
		Short: "Put another node out of the cluster; all others go on with new keys",
		Args:  words("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("remove node %q", args[0]),
				sluicev1.NewClusterServiceClient, sluicev1.ClusterServiceClient.RemoveNode, &sluicev1.RemoveNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.line(resp.GetName() + " is no node of this cluster any more. Tokens made before are of no use.")
			})
		},
	}
	out.addTo(cmd)
	return cmd
}

func nodeTable(p *page, nodes []*sluicev1.Node) {
	p.row("NAME", "SELF", "ADDRESS", "STATE", "SINCE", "ENDPOINTS", "SLOT", "ID")
	for _, n := range nodes {
		self := ""
		if n.GetSelf() {
			self = "*"
		}
		p.row(n.GetName(), self, n.GetAddress(), nodeState(n), moment(n.GetSince()),
			number(n.GetEndpoints()), number(n.GetSlot()), n.GetId())
	}
}

// nodeState is "agent-down" for NODE_STATE_AGENT_DOWN.
func nodeState(n *sluicev1.Node) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(n.GetState().String(), "NODE_STATE_"), "_", "-"))
}

// moment is a cell: UTC, because the nodes of a cluster may be in several zones.
func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339)
}
