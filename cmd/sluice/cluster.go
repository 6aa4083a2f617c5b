package main

import (
	"fmt"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// initVerb makes the node the first of a cluster.
func (a *app) initVerb() *cobra.Command {
	var out format
	req := &sluicev1.InitRequest{}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make this node the first of a new cluster",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("make a cluster"),
				sluicev1.NewClusterServiceClient, sluicev1.ClusterServiceClient.Init, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.line(fmt.Sprintf("%s is the first node of a new cluster. On every other node run:", resp.GetNode().GetName()))
				p.line("")
				p.line(fmt.Sprintf("  sluice join %s --token %s", resp.GetJoinAddress(), resp.GetToken()))
			})
		},
	}
	cmd.Flags().StringVar(&req.Pool, "pool", "", "`CIDR` that networks get their subnets from (default 10.192.0.0/10)")
	cmd.Flags().StringVar(&req.IngressSubnet, "ingress-subnet", "", "`CIDR` of the ingress network (default 198.18.0.0/16)")
	out.addTo(cmd)
	return cmd
}

// joinVerb makes the node a member of an existing cluster.
func (a *app) joinVerb() *cobra.Command {
	var out format
	req := &sluicev1.JoinRequest{}
	cmd := &cobra.Command{
		Use:   "join ADDR[:PORT] --token TOKEN",
		Short: "Make this node a member of the cluster that a node is in",
		Args:  words("ADDR[:PORT]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Address = args[0]
			if req.Token == "" {
				return fmt.Errorf("--token is missing, \"sluice init\" printed it")
			}
			resp, err := ask(cmd.Context(), a.slow("join the cluster of %s", req.Address),
				sluicev1.NewClusterServiceClient, sluicev1.ClusterServiceClient.Join, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.line(fmt.Sprintf("%s is in a cluster of %d nodes.", resp.GetNode().GetName(), resp.GetNodes()))
			})
		},
	}
	cmd.Flags().StringVar(&req.Token, "token", "", "the `TOKEN` that \"sluice init\" printed")
	out.addTo(cmd)
	return cmd
}

// leaveVerb ends the node's membership.
func (a *app) leaveVerb() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "End this node's membership; its endpoints are detached",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.slow("leave the cluster"),
				sluicev1.NewClusterServiceClient, sluicev1.ClusterServiceClient.Leave, &sluicev1.LeaveRequest{})
			if err != nil {
				return err
			}
			if why := resp.GetUntold(); why != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "sluice: leave the cluster: the other nodes do not know it yet (%s)\n", why)
			}
			return out.print(cmd, resp, func(p *page) { p.line("This node is in no cluster.") })
		},
	}
	out.addTo(cmd)
	return cmd
}
