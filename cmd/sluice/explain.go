package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// explainVerb shows where a packet goes.
func (a *app) explainVerb() *cobra.Command {
	var out format
	req := &sluicev1.ExplainRequest{}
	cmd := &cobra.Command{
		Use:   "explain NODE:PORT[/tcp|udp|sctp] | SERVICE",
		Short: "Walk a packet to a published port and back: every hop, rule, mark and choice",
		Long: "Walk a packet to a published port and back: every hop, rule, mark and choice, numbered as in\n" +
			"docs/PACKET.md, with the command that shows it. NODE is a name, an ID or an address; of a SERVICE all\n" +
			"ports are walked, dialled at this node. Hops on this node are compared with the kernel, those on others are\n" +
			"what they should hold. Exit status 0 where no hop is broken, 3 where one is.",
		Args: words("NODE:PORT or SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Target = args[0]
			resp, err := ask(cmd.Context(), a.to("explain %q", req.Target),
				sluicev1.NewStatusServiceClient, sluicev1.StatusServiceClient.Explain, req)
			if err != nil {
				return err
			}
			if err := out.print(cmd, resp, func(p *page) { explainPage(p, resp) }); err != nil {
				return err
			}
			if slices.ContainsFunc(resp.GetHops(), broken) {
				return exitStatus(statusDiffer)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&req.From, "from", "", "the client's `ADDR` (default some machine outside; for a loopback address the node itself)")
	out.addTo(cmd)
	return cmd
}

func broken(h *sluicev1.Hop) bool { return h.GetState() == sluicev1.HopState_HOP_STATE_BROKEN }

func explainPage(p *page, resp *sluicev1.ExplainResponse) {
	packet, backend := "", ""
	for _, h := range resp.GetHops() {
		if h.GetPacket() != packet {
			packet, backend = h.GetPacket(), ""
			p.line(packet)
		}
		if h.GetBackend() != backend {
			backend = h.GetBackend()
			p.line("where " + backend + " is picked:")
		}
		hopLines(p, h)
	}
	p.line("")
	p.line(resp.GetVerdict())
	if n := resp.GetOtherDifferences(); n > 0 {
		p.line(fmt.Sprintf("The kernel differs in %d more that this does not meet: see \"sluice plan --diff\"", n))
	}
}

func hopLines(p *page, h *sluicev1.Hop) {
	state := strings.ToLower(strings.TrimPrefix(h.GetState().String(), "HOP_STATE_"))
	p.line(fmt.Sprintf("%3d  %s, %s: %s", h.GetNumber(), h.GetNode(), h.GetSandbox(), h.GetWhat()))
	why := ""
	if h.GetWhy() != "" {
		why = ": " + h.GetWhy()
	}
	p.line("     " + state + why)
	for _, line := range h.GetPlan() {
		p.line("     | " + line)
	}
	p.line("     $ " + h.GetCommand())
}
