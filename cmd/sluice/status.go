package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// statusVerb shows how the node is.
func (a *app) statusVerb() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show this node: peers, convergence, what is not programmed and why",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			resp, err := ask(cmd.Context(), a.to("show the status"),
				sluicev1.NewStatusServiceClient, sluicev1.StatusServiceClient.GetStatus, &sluicev1.GetStatusRequest{})
			if err != nil {
				return err
			}
			return out.print(cmd, resp, func(p *page) { statusPage(p, resp) })
		},
	}
	out.addTo(cmd)
	return cmd
}

func statusPage(p *page, s *sluicev1.GetStatusResponse) {
	node := s.GetNode()
	p.row("Node:", fmt.Sprintf("%s (%s)", node.GetName(), node.GetId()))
	p.row("Address:", node.GetAddress())
	p.row("Cluster:", clusterText(s))
	p.row("Revision:", convergence(s))
	if a := s.GetAgreement(); a != nil {
		p.row("Records:", agreementText(a))
	}
	p.row("Objects:", number(s.GetObjects()))
	p.row("Repairs:", fmt.Sprint(s.GetRepairs()))
	if n := s.GetNames(); n != nil {
		p.row("Names:", namesText(n))
	}
	p.row("Balancer:", balancerText(s))
	p.row("Agent:", s.GetVersion())
	if len(s.GetPeers()) > 0 {
		p.line("")
		p.row("PEER", "ADDRESS", "STATE", "SINCE")
		for _, n := range s.GetPeers() {
			p.row(n.GetName(), n.GetAddress(), nodeState(n), moment(n.GetSince()))
		}
	}
	heldTable(p, append([]*sluicev1.Node{node}, s.GetPeers()...))
	p.line("")
	if len(s.GetProblems()) == 0 {
		p.line("No problems.")
	} else {
		p.row("PROBLEM", "REASON", "SINCE", "DETAIL")
		for _, b := range s.GetProblems() {
			p.row(b.GetObject(), b.GetReason(), moment(b.GetSince()), b.GetDetail())
		}
	}
	if len(s.GetSandboxes()) > 0 {
		p.line("")
		p.row("SANDBOX", "PATH")
		for _, b := range s.GetSandboxes() {
			p.row(b.GetName(), b.GetPath())
		}
	}
}

// namesText says what the name servers were asked.
func namesText(n *sluicev1.NameCounts) string {
	return fmt.Sprintf("%d questions, %d from cache, %d forwarded, %d stale, %d failed, %d refused",
		n.GetQuestions(), n.GetCached(), n.GetForwarded(), n.GetStale(), n.GetFailed(), n.GetRefused())
}

// agreementText says whether all nodes hold the same.
func agreementText(a *sluicev1.Agreement) string {
	text := "in agreement since " + moment(a.GetSince())
	if a.GetSince() == nil {
		text = "not in agreement: " + strings.Join(a.GetDiffer(), ", ") + " holds others, or did not answer"
	}
	if len(a.GetSilent()) > 0 {
		text += "; not heard: " + strings.Join(a.GetSilent(), ", ")
	}
	return text
}

func balancerText(s *sluicev1.GetStatusResponse) string {
	if s.GetBalancerReason() == "" { // of an older agent
		return s.GetBalancer()
	}
	return fmt.Sprintf("%s (%s)", s.GetBalancer(), s.GetBalancerReason())
}

func clusterText(s *sluicev1.GetStatusResponse) string {
	if !s.GetInCluster() {
		return "none: \"sluice init\" makes one, \"sluice join\" enters one"
	}
	alive := 1
	for _, n := range s.GetPeers() {
		if n.GetState() == sluicev1.NodeState_NODE_STATE_ALIVE {
			alive++
		}
	}
	return fmt.Sprintf("%d of %d nodes answer", alive, 1+len(s.GetPeers()))
}

// convergence says how far the kernel is behind what the node knows.
func convergence(s *sluicev1.GetStatusResponse) string {
	switch {
	case s.GetApplied() == nil:
		return fmt.Sprintf("%d, none applied yet", s.GetRevision())
	case s.GetAppliedRevision() == s.GetRevision():
		return fmt.Sprintf("%d, applied %s", s.GetRevision(), moment(s.GetApplied()))
	default:
		return fmt.Sprintf("%d, the kernel holds %d since %s", s.GetRevision(), s.GetAppliedRevision(), moment(s.GetApplied()))
	}
}
