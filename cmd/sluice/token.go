package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// tokenCreate makes a token and shows it, once.
func (a *app) tokenCreate() *cobra.Command {
	var out format
	var ttl time.Duration
	req := &sluicev1.CreateTokenRequest{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token by which others become members; it is shown once",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req.Ttl = durationpb.New(ttl)
			resp, err := ask(cmd.Context(), a.to("make a token"),
				sluicev1.NewTokenServiceClient, sluicev1.TokenServiceClient.CreateToken, req)
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				t := resp.GetToken()
				p.line(fmt.Sprintf("token %s for role %s, until %s:", t.GetId(), t.GetRole(), moment(t.GetExpires())))
				p.line("")
				if t.GetRole() == "node" {
					p.line(fmt.Sprintf("  sluice join %s --token %s", resp.GetJoinAddress(), resp.GetText()))
					return
				}
				at := resp.GetApiAddress()
				if at == "" {
					at = "ADDR[:PORT]"
				}
				p.line(fmt.Sprintf("  sluice login %s --token %s", at, resp.GetText()))
				if resp.GetApiAddress() == "" {
					p.line("")
					p.line("ADDR is that of a node whose agent runs with --api.")
				}
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it can be used, a `DURATION` from 1m to 8760h")
	cmd.Flags().StringVar(&req.Role, "role", "node", "`ROLE` of who comes by it: node, operator or viewer")
	out.addTo(cmd)
	return cmd
}

// tokenList lists the tokens without their secrets.
func (a *app) tokenList() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tokens that can still be used",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the tokens"),
				sluicev1.NewTokenServiceClient, sluicev1.TokenServiceClient.ListTokens, &sluicev1.ListTokensRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.row("ID", "ROLE", "EXPIRES", "NOTE")
				for _, t := range resp.GetTokens() {
					note := ""
					if t.GetOutdated() {
						note = "made before a node was removed: of no use"
					}
					p.row(t.GetId(), t.GetRole(), moment(t.GetExpires()), note)
				}
			})
		},
	}
	out.addTo(cmd)
	return cmd
}

// tokenRemove takes a token back.
func (a *app) tokenRemove() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "rm ID",
		Short: "Take a token back; members that came by it stay",
		Args:  words("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			resp, err := ask(cmd.Context(), a.to("remove token %q", args[0]),
				sluicev1.NewTokenServiceClient, sluicev1.TokenServiceClient.RemoveToken, &sluicev1.RemoveTokenRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { p.line("token " + args[0] + " is of no use any more") })
		},
	}
	out.addTo(cmd)
	return cmd
}
