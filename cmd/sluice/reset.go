package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sluice-mesh/sluice/agent"
)

// resetVerb removes all that sluice made on this host. It asks no agent: none may run.
func (a *app) resetVerb() *cobra.Command {
	var out format
	var cfg agent.ResetConfig
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Leave nothing of sluice on this host",
		Long: "Leave nothing of sluice on this host: the node leaves its cluster, its endpoints end, and what the agent made\n" +
			"in the kernel, in its run directory and in its data directory is removed. Settings of the host get their\n" +
			"earlier values, but for those that somebody has changed since. Modules that the kernel loaded stay loaded.\n" +
			"The agent must be stopped before. What could not be done is named, and tried again by another call.",
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				if err := a.mayReset(cmd); err != nil {
					return err
				}
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			report, err := a.reset(cmd.Context(), cfg)
			failed := resetFailure(report, err)
			if report == nil {
				return failed
			}
			err = out.print(cmd, resetMessage(report), func(p *page) {
				resetPage(p, report)
				if failed == nil {
					p.line("Nothing else of sluice is on this host, but for modules that the kernel loaded.")
				}
			})
			return cmp.Or(failed, err)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.StringVar(&cfg.DataDir, "data-dir", "/var/lib/sluice", "`DIR` that the agent had for what outlives a reboot")
	flags.StringVar(&cfg.RunDir, "run-dir", "/run/sluice", "`DIR` that the agent had for its socket and the sandboxes")
	flags.Uint16Var(&cfg.GossipPort, "gossip-port", 7956, "`PORT` of membership, to tell the other nodes")
	out.addTo(cmd)
	return cmd
}

const resetWhat = "reset this host"

// mayReset asks the person at the terminal.
func (a *app) mayReset(cmd *cobra.Command) error {
	yes, err := a.confirm(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr(),
		"This node leaves its cluster, its endpoints end, and published ports are no longer answered here. Go on?")
	switch {
	case errors.Is(err, errNoTerminal):
		return &failure{what: resetWhat, why: "there is no terminal to ask at", do: "give --yes"}
	case err != nil:
		return &failure{what: resetWhat, why: err.Error(), do: "nothing was changed; give --yes to go on without a question"}
	case !yes:
		return &failure{what: resetWhat, why: "the answer was not yes", do: "nothing was changed"}
	}
	return nil
}

// resetFailure is why a reset is not complete, or nil.
func resetFailure(report *agent.ResetReport, err error) error {
	switch {
	case err != nil:
		f := &failure{what: resetWhat, why: err.Error()}
		if errors.Is(err, fs.ErrPermission) {
			f.do = "run it as root"
		}
		return f
	case len(report.Failed) > 0:
		return &failure{
			what: resetWhat, why: fmt.Sprintf("%d objects are still there, the first is %s", len(report.Failed), report.Failed[0].Object),
			do: "remove what is named as the cause, and run the command again",
		}
	}
	return nil
}

func resetPage(p *page, r *agent.ResetReport) {
	for _, op := range r.Done {
		p.row("removed", op.Sandbox+": "+op.Object.String())
	}
	for _, file := range r.Files {
		p.row("removed", file)
	}
	for _, s := range r.Restored {
		p.row("restored", fmt.Sprintf("%s is %s, was %s", s.Key, s.Before, s.Ours))
	}
	for _, l := range r.Left {
		p.row("left", l.Object+": "+l.Why)
	}
	for _, f := range r.Failed {
		p.row("failed", f.Error())
	}
}

// resetMessage is the report for -o json and yaml.
func resetMessage(r *agent.ResetReport) *structpb.Struct {
	var removed, restored, left, failed []*structpb.Value
	for _, op := range r.Done {
		removed = append(removed, structpb.NewStringValue(op.Sandbox+": "+op.Object.String()))
	}
	for _, file := range r.Files {
		removed = append(removed, structpb.NewStringValue(file))
	}
	for _, s := range r.Restored {
		restored = append(restored, object("setting", s.Key, "is", s.Before, "was", s.Ours))
	}
	for _, l := range r.Left {
		left = append(left, object("object", l.Object, "why", l.Why))
	}
	for _, f := range r.Failed {
		failed = append(failed, object("object", f.Object, "reason", string(f.Reason), "detail", f.Err.Error()))
	}
	array := func(values []*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: values})
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"removed": array(removed), "restored": array(restored), "left": array(left), "failed": array(failed),
	}}
}

// object is a JSON object of pairs of a name and a text.
func object(pairs ...string) *structpb.Value {
	fields := map[string]*structpb.Value{}
	for i := 0; i+1 < len(pairs); i += 2 {
		fields[pairs[i]] = structpb.NewStringValue(pairs[i+1])
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: fields})
}
