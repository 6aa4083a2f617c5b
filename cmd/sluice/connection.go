package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// connectionsFlag is a --network that may say what the endpoint is to be there:
// NETWORK[,KEY=VALUE]... It implements pflag.Value; each time it is given adds one.
type connectionsFlag struct{ value *[]*sluicev1.Connection }

// Set reads one network. What the values may be is for the agent to say.
func (f connectionsFlag) Set(text string) error {
	name, options, more := strings.Cut(text, ",")
	if name == "" {
		return fmt.Errorf("the network's name is missing")
	}
	c := &sluicev1.Connection{Network: name}
	if more {
		for option := range strings.SplitSeq(options, ",") {
			if err := connectionOption(c, option); err != nil {
				return err
			}
		}
	}
	*f.value = append(*f.value, c)
	return nil
}

// connectionOption takes one KEY=VALUE.
func connectionOption(c *sluicev1.Connection, option string) error {
	key, value, _ := strings.Cut(option, "=")
	if value == "" {
		return fmt.Errorf("%q is not KEY=VALUE", option)
	}
	switch key {
	case "ip":
		c.Addresses = append(c.Addresses, value)
	case "mac":
		c.Mac = value
	case "interface":
		c.Interface = value
	case "alias":
		c.Aliases = append(c.Aliases, value)
	case "sysctl":
		c.Sysctls = append(c.Sysctls, value)
	case "gw-priority":
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return fmt.Errorf("gw-priority %q is no whole number", value)
		}
		c.GatewayPriority = int32(n)
	default:
		return fmt.Errorf("%q is not one of ip, mac, interface, gw-priority, alias and sysctl", key)
	}
	return nil
}

// String is the networks as Set takes them, without what is asked of them; "" where there are none.
func (f connectionsFlag) String() string {
	if f.value == nil {
		return ""
	}
	names := make([]string, len(*f.value))
	for i, c := range *f.value {
		names[i] = c.GetNetwork()
	}
	return strings.Join(names, " ")
}

// Type is what stands for the value in a help text that does not say.
func (f connectionsFlag) Type() string { return "NET" }

// endpointConnect puts an endpoint on one more network.
func (a *app) endpointConnect() *cobra.Command {
	var out format
	want := &sluicev1.Connection{}
	cmd := &cobra.Command{
		Use:   "connect NAME NETWORK",
		Short: "Put an endpoint of this node on one more network while it runs",
		Args:  words("NAME", "NETWORK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			want.Network = args[1]
			resp, err := ask(cmd.Context(), a.slow("connect endpoint %q to network %q", args[0], args[1]),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.ConnectEndpoint,
				&sluicev1.ConnectEndpointRequest{Endpoint: args[0], Connection: want})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { endpointTable(p, []*sluicev1.Endpoint{resp.GetEndpoint()}) })
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&want.Addresses, "ip", nil, "`ADDR` that it is to have there, IPv4 or IPv6; may be given again")
	flags.StringVar(&want.Mac, "mac", "", "its hardware `ADDR` there (default made from its address)")
	flags.StringVar(&want.Interface, "interface", "", "`NAME` of the device in its namespace (default made from the network)")
	flags.Int32Var(&want.GatewayPriority, "gw-priority", 0, "the network with the greatest `N` has its default route; with a port of the mesh, the ingress network has")
	flags.StringArrayVar(&want.Aliases, "alias", nil, "a further `NAME` of it there; may be given again")
	flags.StringArrayVar(&want.Sysctls, "sysctl", nil, "a setting of the device, `net.ipv4.conf.IFNAME.KEY=VALUE`, ipv4 or ipv6, conf or neigh; may be given again")
	out.addTo(cmd)
	return cmd
}

// endpointDisconnect takes an endpoint off a network.
func (a *app) endpointDisconnect() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "disconnect NAME NETWORK",
		Short: "Take an endpoint of this node off a network that it was connected to, while it runs",
		Args:  words("NAME", "NETWORK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.slow("disconnect endpoint %q from network %q", args[0], args[1]),
				sluicev1.NewEndpointServiceClient, sluicev1.EndpointServiceClient.DisconnectEndpoint,
				&sluicev1.DisconnectEndpointRequest{Endpoint: args[0], Network: args[1]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { endpointTable(p, []*sluicev1.Endpoint{resp.GetEndpoint()}) })
		},
	}
	out.addTo(cmd)
	return cmd
}
