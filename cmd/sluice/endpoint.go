package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// endpointAttach makes a namespace an endpoint.
func (a *app) endpointAttach() *cobra.Command {
	var out format
	var netns string
	var pid uint32
	req := &sluicev1.AttachEndpointRequest{}
	cmd := &cobra.Command{
		Use:   "attach --service SERVICE (--netns PATH | --pid N)",
		Short: "Make a network namespace of this node an endpoint of a service",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := endpointNamespace(req, netns, pid); err != nil {
				return err
			}
			if err := checkEndpoint(req); err != nil {
				return err
			}
			resp, err := ask(cmd.Context(), a.slow("attach an endpoint to service %q", req.Service),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.AttachEndpoint, req)
			if err != nil {
				return err
			}
			warnHeld(cmd, resp.GetHeld())
			return out.print(cmd, resp, func(p *page) { endpointTable(p, []*sluicev1.Endpoint{resp.GetEndpoint()}) })
		},
	}
	endpointFlags(cmd, req)
	cmd.Flags().StringVar(&netns, "netns", "", "`PATH` of the namespace: a bind mount or /proc/PID/ns/net")
	cmd.Flags().Uint32Var(&pid, "pid", 0, "process `N` that is in the namespace")
	out.addTo(cmd)
	return cmd
}

// endpointFlags are what attach and run both take.
func endpointFlags(cmd *cobra.Command, req *sluicev1.AttachEndpointRequest) {
	cmd.Flags().StringVar(&req.Service, "service", "", "the `SERVICE` that it serves")
	cmd.Flags().StringVar(&req.Name, "name", "", "the endpoint's `NAME` (default made from the service's)")
	cmd.Flags().StringArrayVar(&req.Addresses, "ip", nil, "`ADDR` that it is to have on one of its networks, IPv4 or IPv6; may be given again")
	cmd.Flags().Var(connectionsFlag{&req.Networks}, "network", "a `NET` that it is on besides its service's, or what it is to be on one of those; may be given again. "+
		"NET is NETWORK[,ip=ADDR][,mac=MAC][,interface=NAME][,gw-priority=N][,alias=NAME]...[,sysctl=net.ipv4.conf.IFNAME.KEY=VALUE]...")
	cmd.Flags().Uint32Var(&req.Weight, "weight", 1, "its share `N` of connections, 1 to 65535")
}

// checkEndpoint refuses what a proto's default would turn into something else.
func checkEndpoint(req *sluicev1.AttachEndpointRequest) error {
	if req.Service == "" {
		return fmt.Errorf("--service is missing")
	}
	if req.Weight < 1 || req.Weight > 65535 {
		return fmt.Errorf("weight %d is not 1 to 65535", req.Weight)
	}
	return nil
}

// endpointNamespace names the namespace so that another process finds it: the
// agent has another working directory and is another "self".
func endpointNamespace(req *sluicev1.AttachEndpointRequest, netns string, pid uint32) error {
	if (netns == "") == (pid == 0) {
		return fmt.Errorf("give one of --netns and --pid")
	}
	if pid != 0 {
		req.Namespace = &sluicev1.AttachEndpointRequest_Pid{Pid: pid}
		return nil
	}
	path, err := filepath.Abs(netns)
	if err != nil {
		return fmt.Errorf("netns %q: %w", netns, err)
	}
	if rest, ok := strings.CutPrefix(path, "/proc/self/"); ok {
		path = fmt.Sprintf("/proc/%d/%s", os.Getpid(), rest)
	}
	req.Namespace = &sluicev1.AttachEndpointRequest_Netns{Netns: path}
	return nil
}

// endpointDrain lets an endpoint end its connections.
func (a *app) endpointDrain() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "drain NAME",
		Short: "Give an endpoint of this node no new connections, it keeps those that it has",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.slow("drain endpoint %q", args[0]),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.DrainEndpoint,
				&sluicev1.DrainEndpointRequest{Endpoint: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { endpointTable(p, []*sluicev1.Endpoint{resp.GetEndpoint()}) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// endpointDetach ends an endpoint.
func (a *app) endpointDetach() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "detach NAME",
		Short: "End an endpoint of this node, its namespace stays",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("detach endpoint %q", args[0]),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.DetachEndpoint,
				&sluicev1.DetachEndpointRequest{Endpoint: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { p.line(fmt.Sprintf("endpoint %q is detached", args[0])) })
		},
	}
	out.addTo(cmd)
	return cmd
}

// endpointList lists the endpoints of all nodes.
func (a *app) endpointList() *cobra.Command {
	var out format
	req := &sluicev1.ListEndpointsRequest{}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the endpoints of all nodes",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the endpoints"),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.ListEndpoints, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { endpointTable(p, resp.GetEndpoints()) })
		},
	}
	cmd.Flags().StringVar(&req.Service, "service", "", "only this `SERVICE`'s")
	out.addTo(cmd)
	return cmd
}

// endpointInspect shows one endpoint with its interfaces.
func (a *app) endpointInspect() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show an endpoint and its interfaces",
		Args:  words("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("inspect endpoint %q", args[0]),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.GetEndpoint,
				&sluicev1.GetEndpointRequest{Endpoint: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { endpointPage(p, resp.GetEndpoint()) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func endpointTable(p *page, endpoints []*sluicev1.Endpoint) {
	p.row("NAME", "SERVICE", "NODE", "STATE", "WEIGHT", "ADDRESSES", "ID", "NOTES")
	for _, e := range endpoints {
		var addresses []string
		for _, at := range e.GetAttachments() {
			addresses = append(addresses, at.GetNetwork()+"="+list(at.GetAddresses()))
		}
		p.row(e.GetName(), e.GetService(), e.GetNode(), e.GetState(), number(e.GetWeight()),
			strings.Join(addresses, " "), e.GetId(), strings.Join(conflicts(e.GetConflicts()), "; "))
	}
}

func endpointPage(p *page, e *sluicev1.Endpoint) {
	p.row("Name:", e.GetName())
	p.row("ID:", e.GetId())
	p.row("Service:", e.GetService())
	p.row("Node:", e.GetNode())
	p.row("State:", e.GetState())
	p.row("Weight:", number(e.GetWeight()))
	p.row("Asked for:", list(e.GetFixed()))
	for _, claim := range e.GetConflicts() {
		p.row("Conflict:", claim)
	}
	p.line("")
	p.line(fmt.Sprintf("Interfaces: %d", len(e.GetAttachments())))
	if len(e.GetAttachments()) == 0 {
		return
	}
	p.row("NETWORK", "DRIVER", "INTERFACE", "ADDRESSES", "NOTES")
	for _, at := range e.GetAttachments() {
		p.row(at.GetNetwork(), at.GetDriver(), at.GetInterface(), list(at.GetAddresses()), strings.Join(attachmentNotes(at), "; "))
	}
}

// attachmentNotes are what an interface has that goes without saying on no other.
func attachmentNotes(at *sluicev1.Attachment) []string {
	var notes []string
	if at.GetDefaultRoute() {
		notes = append(notes, "default route")
	}
	if at.GetConnected() {
		notes = append(notes, "connected")
	}
	if p := at.GetGatewayPriority(); p != 0 {
		notes = append(notes, fmt.Sprintf("gw-priority=%d", p))
	}
	if at.GetMac() != "" {
		notes = append(notes, "mac="+at.GetMac())
	}
	for _, alias := range at.GetAliases() {
		notes = append(notes, "alias="+alias)
	}
	for _, s := range at.GetSysctls() {
		notes = append(notes, "sysctl="+s)
	}
	return notes
}
