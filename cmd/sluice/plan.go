package main

import (
	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// planVerb shows what the kernel should hold.
func (a *app) planVerb() *cobra.Command {
	var out format
	req := &sluicev1.GetPlanRequest{}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what this node's kernel should hold",
		Long: "Show what this node's kernel should hold.\n" +
			"With --diff only how the kernel differs from that: exit status 0 where it does not, 3 where it does.",
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := "show the plan"
			if req.Diff {
				what = "compare the kernel with the plan"
			}
			resp, err := ask(cmd.Context(), a.to("%s", what),
				sluicev1.NewStatusServiceClient, sluicev1.StatusServiceClient.GetPlan, req)
			if err != nil {
				return err
			}
			if err := out.print(cmd, resp, func(p *page) { p.text(resp.GetText()) }); err != nil {
				return err
			}
			if resp.GetDifferences() > 0 {
				return exitStatus(statusDiffer)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&req.Diff, "diff", false, "show only how the kernel differs")
	out.addTo(cmd)
	return cmd
}
