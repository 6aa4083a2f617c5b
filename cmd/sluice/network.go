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
	var routing string
	req := &sluicev1.CreateNetworkRequest{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a network on all nodes",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			if err := networkChoices(req, routing); err != nil {
				return err
			}
			resp, err := ask(cmd.Context(), a.to("create network %q", req.Name),
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.CreateNetwork, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { networkTable(p, []*sluicev1.Network{resp.GetNetwork()}) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Driver, "driver", driverOverlay, "`DRIVER` overlay, one network over all nodes, or bridge, one that each node has for itself")
	flags.StringArrayVar(&req.Subnets, "subnet", nil, "`CIDR` of its addresses, at most one IPv4 and one IPv6; may be given again (default chosen)")
	flags.StringArrayVar(&req.Gateways, "gateway", nil, "a bridge's own `ADDR` in a subnet; may be given again (default the subnet's first)")
	flags.BoolVar(&req.Internal, "internal", false, "no way out and no way in")
	flags.BoolVar(&req.NoIcc, "no-icc", false, "its endpoints do not reach each other")
	flags.Uint32Var(&req.Mtu, "mtu", 0, "most bytes `N` of a packet, 1280 to 65535 (default what fits)")
	flags.StringVar(&routing, "direct-routing", routingDeny, "whether machines outside reach a bridge's endpoints by their own addresses, `deny|allow`")
	out.addTo(cmd)
	return cmd
}

const (
	driverOverlay = "overlay"
	driverBridge  = "bridge"
	routingDeny   = "deny"
	routingAllow  = "allow"
)

// networkChoices refuses words that no agent knows.
func networkChoices(req *sluicev1.CreateNetworkRequest, routing string) error {
	if req.GetDriver() != driverOverlay && req.GetDriver() != driverBridge {
		return fmt.Errorf("driver %q does not exist, overlay and bridge do", req.GetDriver())
	}
	if routing != routingDeny && routing != routingAllow {
		return fmt.Errorf("direct routing %q is not deny or allow", routing)
	}
	req.DirectRouting = routing == routingAllow
	return nil
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
	cmd.Flags().StringArrayVar(&req.AddSubnets, "subnet", nil, "IPv4 or IPv6 `CIDR` that is added to an overlay; may be given again")
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

// networkInspect shows one network with its endpoints.
func (a *app) networkInspect() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show a network and the endpoints on it",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("inspect network %q", args[0]),
				sluicev1.NewNetworkServiceClient, sluicev1.NetworkServiceClient.GetNetwork,
				&sluicev1.GetNetworkRequest{Network: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { networkPage(p, resp) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func networkTable(p *page, networks []*sluicev1.Network) {
	p.row("NAME", "DRIVER", "VNI", "SUBNETS", "MTU", "SERVICES", "ID", "NOTES")
	for _, n := range networks {
		p.row(n.GetName(), n.GetDriver(), positive(n.GetVni()), list(n.GetSubnets()), positive(n.GetMtu()),
			list(n.GetServices()), n.GetId(), strings.Join(append(networkTraits(n), conflicts(n.GetConflicts())...), "; "))
	}
}

// networkTraits are what makes a network other than usual.
func networkTraits(n *sluicev1.Network) []string {
	var traits []string
	for _, t := range []struct {
		has  bool
		text string
	}{{n.GetIngress(), "ingress"}, {n.GetInternal(), "internal"}, {n.GetNoIcc(), "no icc"}, {n.GetDirectRouting(), "direct routing"}} {
		if t.has {
			traits = append(traits, t.text)
		}
	}
	return traits
}

func networkPage(p *page, resp *sluicev1.GetNetworkResponse) {
	n := resp.GetNetwork()
	p.row("Name:", n.GetName())
	p.row("ID:", n.GetId())
	p.row("Driver:", n.GetDriver())
	p.row("Subnets:", list(n.GetSubnets()))
	p.row("Gateways:", list(n.GetGateways()))
	p.row("VNI:", positive(n.GetVni()))
	p.row("MTU:", positive(n.GetMtu()))
	p.row("Traits:", strings.Join(networkTraits(n), ", "))
	p.row("Services:", list(n.GetServices()))
	for _, claim := range n.GetConflicts() {
		p.row("Conflict:", claim)
	}
	p.line("")
	p.line(fmt.Sprintf("Endpoints: %d", len(resp.GetEndpoints())))
	if len(resp.GetEndpoints()) == 0 {
		return
	}
	p.row("NAME", "SERVICE", "NODE", "ADDRESSES", "INTERFACE", "NOTES")
	for _, e := range resp.GetEndpoints() {
		for _, at := range e.GetAttachments() {
			if at.GetNetwork() == n.GetName() {
				p.row(e.GetName(), e.GetService(), e.GetNode(), list(at.GetAddresses()), at.GetInterface(), strings.Join(attachmentNotes(at), "; "))
			}
		}
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
