package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluice-mesh/sluice/agent"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// The states of a check (sluicev1.Check).
const (
	checkWarn = "warn"
	checkFail = "fail"
)

// doctorVerb shows what on this host is missing or in the way, with an agent and without.
func (a *app) doctorVerb() *cobra.Command {
	var out format
	var cfg agent.DoctorConfig
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Show what on this host is missing or in the way",
		Long: "Show what on this host is missing or in the way, with figures, and what to do about it: the kernel's features,\n" +
			"programs, rights, directories, ports, the underlay, addresses that the mesh uses too, settings and tables; and,\n" +
			"where an agent answers, what that knows: peers, problems, repairs, how the kernel differs from the plan.\n" +
			"Without an agent the command looks itself, as root, with what the flags say about the agent to come.\n" +
			"Exit status 0 where no check fails, 1 where one does.",
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := a.examine(cmd, cfg)
			if err != nil {
				return err
			}
			if err := out.print(cmd, resp, func(p *page) { doctorPage(p, resp) }); err != nil {
				return err
			}
			if slices.ContainsFunc(resp.GetChecks(), func(c *sluicev1.Check) bool { return c.GetState() == checkFail }) {
				return exitStatus(statusFailed)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.DataDir, "data-dir", "/var/lib/sluice", "the `DIR` of the agent's data, where none answers")
	flags.StringVar(&cfg.RunDir, "run-dir", "/run/sluice", "the `DIR` of its sandboxes, where none answers")
	flags.TextVar(&cfg.Advertise, "advertise", netip.Addr{}, "the `ADDR` that it is to have, where none answers")
	flags.Uint16Var(&cfg.GossipPort, "gossip-port", 7956, "its `PORT` of membership, where none answers")
	flags.Uint16Var(&cfg.VXLANPort, "vxlan-port", 4789, "its `PORT` of the tunnels, where none answers")
	flags.TextVar(&cfg.Balancer, "balancer", agent.BalancerAuto, "what is to pick an endpoint: `auto|ipvs|nft`, where none answers")
	out.addTo(cmd)
	return cmd
}

// examine asks the agent, and looks itself where that does not answer: that is when a doctor is
// needed most.
func (a *app) examine(cmd *cobra.Command, cfg agent.DoctorConfig) (*sluicev1.ExamineResponse, error) {
	const what = "examine this host"
	to, err := a.target(what)
	if err != nil {
		return nil, err
	}
	cfg.Address = to.String()
	resp, err := ask(cmd.Context(), a.to(what), sluicev1.NewDoctorServiceClient, sluicev1.DoctorServiceClient.Examine, &sluicev1.ExamineRequest{})
	failed, told := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return resp, nil
	case !told || to.path == "" || errors.Is(err, fs.ErrPermission) || cmd.Context().Err() != nil:
		return nil, err
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		cfg.Silent = failed.why
	}
	if resp, err = a.doctor(cfg); err != nil {
		return nil, &failure{what: what, why: err.Error()}
	}
	return resp, nil
}

func doctorPage(p *page, resp *sluicev1.ExamineResponse) {
	width, warned, failed := 0, 0, 0
	for _, c := range resp.GetChecks() {
		width = max(width, len(c.GetName()))
	}
	for _, c := range resp.GetChecks() {
		p.line(fmt.Sprintf("%-4s  %-*s  %s", clean(c.GetState()), width, clean(c.GetName()), clean(c.GetSeen())))
		if c.GetDo() != "" {
			p.line(fmt.Sprintf("%-4s  %-*s  do: %s", "", width, "", clean(c.GetDo())))
		}
		switch c.GetState() {
		case checkWarn:
			warned++
		case checkFail:
			failed++
		}
	}
	p.line("")
	p.line(fmt.Sprintf("%d checks, %d failed, %d warnings", len(resp.GetChecks()), failed, warned))
}
