package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// networkCreate makes a network.
func (a *app) networkCreate() *cobra.Command {
	var out format
	var driver string
	var subnets []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a network on all nodes",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.to("create network %q", args[0])
			req, err := networkRequest(c.what, args[0], driver, subnets)
			if err != nil {
				return err
			}
			resp, err := ask(cmd.Context(), c,
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.CreateNetwork, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { networkTable(p, []*sluicev1.Network{resp.GetNetwork()}) })
		},
	}
	cmd.Flags().StringVar(&driver, "driver", "overlay", "`DRIVER` that carries it: overlay")
	cmd.Flags().StringArrayVar(&subnets, "subnet", nil, "IPv4 `CIDR` (default one from the cluster's pool)")
	out.addTo(cmd)
	return cmd
}

// networkRequest refuses what the command line promises and the API does not
// have yet.
func networkRequest(what, name, driver string, subnets []string) (*sluicev1.CreateNetworkRequest, error) {
	req := &sluicev1.CreateNetworkRequest{Name: name}
	switch driver {
	case "overlay":
	case "bridge":
		return nil, &failure{what: what, why: "Unsupported: this version has no driver bridge", do: "use --driver overlay"}
	default:
		return nil, fmt.Errorf("driver %q does not exist, overlay does", driver)
	}
	switch len(subnets) {
	case 0:
	case 1:
		req.Subnet = subnets[0]
	default:
		return nil, &failure{what: what, why: "Unsupported: a network is made with one --subnet", do: "give one IPv4 subnet, IPv6 is added to it, and add others with \"sluice network update\""}
	}
	return req, nil
}

// networkUpdate makes a network larger.
func (a *app) networkUpdate() *cobra.Command {
	var out format
	req := &sluicev1.UpdateNetworkRequest{}
	cmd := &cobra.Command{
		Use:   "update NAME --subnet CIDR...",
		Short: "Give a network further subnets, nothing that has an address changes",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(req.AddSubnets) == 0 {
				return fmt.Errorf("--subnet is missing")
			}
			req.Network = args[0]
			resp, err := ask(cmd.Context(), a.to("update network %q", args[0]),
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.UpdateNetwork, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { networkTable(p, []*sluicev1.Network{resp.GetNetwork()}) })
		},
	}
	cmd.Flags().StringArrayVar(&req.AddSubnets, "subnet", nil, "IPv4 or IPv6 `CIDR` that is added; may be given again")
	out.addTo(cmd)
	return cmd
}

// networkList lists the networks.
func (a *app) networkList() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the networks",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the networks"),
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.ListNetworks, &sluicev1.ListNetworksRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { networkTable(p, resp.GetNetworks()) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// networkRemove removes a network.
func (a *app) networkRemove() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a network that no service uses",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("remove network %q", args[0]),
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.RemoveNetwork,
				&sluicev1.RemoveNetworkRequest{Network: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { p.line(fmt.Sprintf("network %q is removed", args[0])) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func networkTable(p *page, networks []*sluicev1.Network) {
	p.row("NAME", "VNI", "SUBNETS", "MTU", "SERVICES", "ID", "NOTES")
	for _, n := range networks {
		var notes []string
		if n.GetIngress() {
			notes = append(notes, "ingress")
		}
		notes = append(notes, conflicts(n.GetConflicts())...)
		p.row(n.GetName(), number(n.GetVni()), list(n.GetSubnets()), number(n.GetMtu()),
			list(n.GetServices()), n.GetId(), strings.Join(notes, "; "))
	}
}

// conflicts are notes about claims that an older object holds.
func conflicts(claims []string) []string {
	var notes []string
	for _, claim := range claims {
		notes = append(notes, "conflict: "+claim)
	}
	return notes
}
