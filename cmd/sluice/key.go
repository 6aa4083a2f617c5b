package main

import (
	"fmt"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// keyRotate gives gossip another key.
func (a *app) keyRotate() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Give gossip another key on all nodes; certificates and tokens stay good",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("rotate the keys of gossip"),
				sluicev1.NewKeyServiceClient, sluicev1.KeyServiceClient.RotateKeys, &sluicev1.RotateKeysRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.line("gossip goes on by key " + resp.GetId() + " in a few seconds; the one before ends a minute later")
			})
		},
	}
	out.addTo(cmd)
	return cmd
}

// keyList lists the keys by their names.
func (a *app) keyList() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the keys by which this node reads gossip, by their names",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("list the keys of gossip"),
				sluicev1.NewKeyServiceClient, sluicev1.KeyServiceClient.ListKeys, &sluicev1.ListKeysRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) {
				p.row("ID", "USE", "MADE")
				for _, k := range resp.GetKeys() {
					use, made := "reads", ""
					if k.GetSends() {
						use = "sends, reads"
					}
					if k.GetNewest() {
						made = moment(resp.GetMade())
					}
					p.row(k.GetId(), use, made)
				}
				p.line(fmt.Sprintf("CA of generation %d", resp.GetGeneration()))
			})
		},
	}
	out.addTo(cmd)
	return cmd
}
