package main

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// serviceCreate makes a service.
func (a *app) serviceCreate() *cobra.Command {
	var out format
	req := &sluicev1.CreateServiceRequest{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a service and publish its ports",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			resp, err := ask(cmd.Context(), a.to("create service %q", req.Name),
				sluicev1.NewServiceServiceClient, sluicev1.ServiceServiceClient.CreateService, req)
			if err != nil {
				return err
			}
			warnHeld(cmd, resp.GetService().GetHeld())
			return out.print(cmd, resp, func(p *page) { serviceTable(p, []*sluicev1.Service{resp.GetService()}) })
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&req.Networks, "network", nil, "`NETWORK` that its endpoints are on; may be repeated")
	flags.StringArrayVar(&req.Publish, "publish", nil,
		"publish a port; may be repeated. `SPEC` is [ADDR:]PUBLISHED[-END]:TARGET[-END][/tcp|udp|sctp][,mode=ingress|host][,source=CIDR]...")
	flags.StringVar(&req.Scheduler, "scheduler", "", "how an endpoint is picked, `NAME` rr, wrr, lc, wlc, sh or mh (default rr)")
	flags.Var(affinityFlag{&req.Affinity}, "affinity", "`KIND` client-ip or client-ip=TIME: a client comes to the same endpoint again for 3h or TIME (default none)")
	flags.StringArrayVar(&req.Aliases, "alias", nil, "a further `NAME` of the service; may be repeated")
	flags.StringVar(&req.Stack, "stack", "", "`NAME` of what it belongs to: short names are looked for there first")
	flags.StringVar(&req.EndpointMode, "endpoint-mode", "", "`MODE` of its name on an overlay: vip, a virtual address, or dnsrr, its endpoints' addresses (default vip)")
	flags.BoolVar(&req.Force, "force", false, "publish even port 22 and sluice's own ports")
	out.addTo(cmd)
	return cmd
}

// serviceUpdate changes a service.
func (a *app) serviceUpdate() *cobra.Command {
	var out format
	var networks, publish, aliases []string
	var stack string
	req := &sluicev1.UpdateServiceRequest{}
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a service, what no flag names stays",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service = args[0]
			req.Networks, req.Publish, req.Aliases = given(cmd, "network", networks), given(cmd, "publish", publish), given(cmd, "alias", aliases)
			if cmd.Flags().Changed("stack") {
				req.Stack = &stack
			}
			if changesNothing(req) {
				return fmt.Errorf("a flag that says what to change is missing")
			}
			resp, err := ask(cmd.Context(), a.slow("update service %q", req.Service),
				sluicev1.NewServiceServiceClient, sluicev1.ServiceServiceClient.UpdateService, req)
			if err != nil {
				return err
			}
			warnHeld(cmd, resp.GetService().GetHeld())
			return out.print(cmd, resp, func(p *page) { serviceTable(p, []*sluicev1.Service{resp.GetService()}) })
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&networks, "network", nil, "all `NETWORK`s that its endpoints are on; may be repeated, or empty for none")
	flags.StringArrayVar(&publish, "publish", nil, "all ports, each a `SPEC` as for create; may be repeated, or empty for none")
	flags.StringArrayVar(&req.PublishAdd, "publish-add", nil, "publish a port besides, a `SPEC` as for create; may be repeated")
	flags.StringArrayVar(&req.PublishRm, "publish-rm", nil, "publish a port no longer, a `SPEC` as \"service ls\" shows it; may be repeated")
	flags.StringVar(&req.Scheduler, "scheduler", "", "how an endpoint is picked, `NAME` rr, wrr, lc, wlc, sh or mh")
	flags.Var(affinityFlag{&req.Affinity}, "affinity", "`KIND` client-ip or client-ip=TIME as for create, or none")
	flags.StringArrayVar(&aliases, "alias", nil, "all further `NAME`s of the service; may be repeated, or empty for none")
	flags.StringVar(&stack, "stack", "", "`NAME` of what it belongs to, or empty for none")
	flags.StringVar(&req.EndpointMode, "endpoint-mode", "", "`MODE` of its name on an overlay, vip or dnsrr")
	flags.BoolVar(&req.Force, "force", false, "publish even port 22 and sluice's own ports")
	out.addTo(cmd)
	return cmd
}

// changesNothing tells whether an update names nothing that is to change.
func changesNothing(req *sluicev1.UpdateServiceRequest) bool {
	rest := proto.CloneOf(req)
	rest.Service, rest.Force = "", false
	return proto.Equal(rest, &sluicev1.UpdateServiceRequest{})
}

// given is a flag's list of values where the flag was given; empty ones say "none".
func given(cmd *cobra.Command, flag string, values []string) *sluicev1.StringList {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return &sluicev1.StringList{Values: slices.DeleteFunc(values, func(v string) bool { return v == "" })}
}

// serviceList lists the services.
func (a *app) serviceList() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the services",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the services"),
				sluicev1.NewServiceServiceClient, sluicev1.ServiceServiceClient.ListServices, &sluicev1.ListServicesRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { serviceTable(p, resp.GetServices()) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// serviceInspect shows one service with its endpoints.
func (a *app) serviceInspect() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show a service and its endpoints on all nodes",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("inspect service %q", args[0]),
				sluicev1.NewServiceServiceClient, sluicev1.ServiceServiceClient.GetService,
				&sluicev1.GetServiceRequest{Service: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { servicePage(p, resp.GetService()) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// serviceRemove removes a service.
func (a *app) serviceRemove() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a service and detach its endpoints",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("remove service %q", args[0]),
				sluicev1.NewServiceServiceClient, sluicev1.ServiceServiceClient.RemoveService,
				&sluicev1.RemoveServiceRequest{Service: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { p.line(fmt.Sprintf("service %q is removed", args[0])) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func serviceTable(p *page, services []*sluicev1.Service) {
	p.row("NAME", "PORTS", "NETWORKS", "MODE", "SCHEDULER", "AFFINITY", "ENDPOINTS", "ID", "NOTES")
	for _, s := range services {
		p.row(s.GetName(), list(ports(s)), list(s.GetNetworks()), s.GetEndpointMode(), s.GetScheduler(), affinity(s.GetAffinity()),
			number(len(s.GetEndpoints())), s.GetId(), strings.Join(conflicts(s.GetConflicts()), "; "))
	}
}

func servicePage(p *page, s *sluicev1.Service) {
	p.row("Name:", s.GetName())
	p.row("ID:", s.GetId())
	p.row("Aliases:", list(s.GetAliases()))
	p.row("Stack:", s.GetStack())
	p.row("Endpoint mode:", s.GetEndpointMode())
	p.row("Scheduler:", s.GetScheduler())
	p.row("Affinity:", affinity(s.GetAffinity()))
	p.row("Networks:", list(s.GetNetworks()))
	for _, v := range s.GetVirtualAddresses() {
		p.row("Virtual:", v.GetNetwork()+"="+list(v.GetAddresses()))
	}
	p.row("Ports:", strings.Join(ports(s), " "))
	for _, claim := range s.GetConflicts() {
		p.row("Conflict:", claim)
	}
	for _, h := range s.GetHeld() {
		p.row("Held:", heldText(h))
	}
	p.line("")
	p.line(fmt.Sprintf("Endpoints: %d", len(s.GetEndpoints())))
	if len(s.GetEndpoints()) > 0 {
		endpointTable(p, s.GetEndpoints())
	}
}

// ports are a service's publications as --publish takes them.
func ports(s *sluicev1.Service) []string {
	var specs []string
	for _, port := range s.GetPorts() {
		specs = append(specs, portSpec(port))
	}
	return specs
}

func portSpec(port *sluicev1.PublishedPort) string {
	published, target := number(port.GetPublished()), number(port.GetTarget())
	if last := port.GetLast(); last != 0 {
		published += "-" + number(last)
		target += "-" + number(port.GetTarget()+last-port.GetPublished())
	}
	if addr := port.GetAddress(); addr != "" {
		published = net.JoinHostPort(addr, published)
	}
	spec := []string{fmt.Sprintf("%s:%s/%s", published, target, port.GetProtocol())}
	if port.GetMode() == modeHost {
		spec = append(spec, "mode="+modeHost)
	}
	for _, source := range port.GetSources() {
		spec = append(spec, "source="+source)
	}
	return strings.Join(spec, ",")
}

// modeHost is the mode of a port that does not go without saying.
const modeHost = "host"
