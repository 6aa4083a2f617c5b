package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-mesh/sluice/agent"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// app is one command line: what its verbs share. Tests put other things in the
// place of the machine.
type app struct {
	host       string        // --host as given; "": SLUICE_HOST, then defaultHost
	patience   time.Duration // limit of a call
	runAgent   func(context.Context, agent.Config) error
	doctor     func(agent.DoctorConfig) (*sluicev1.ExamineResponse, error)
	reset      func(context.Context, agent.ResetConfig) (*agent.ResetReport, error)
	confirm    func(ctx context.Context, in io.Reader, out io.Writer, question string) (bool, error)
	workloads  workloads
	foreground func() bool // whether a terminal's keys reach this process
}

func newApp() *app {
	return &app{
		patience: 30 * time.Second, runAgent: agent.Run, doctor: agent.Doctor, reset: agent.Reset, confirm: confirm,
		workloads: machine{}, foreground: inForeground,
	}
}

// run carries out args and says on stderr why it could not.
func (a *app) run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // never nil: cobra would take os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	adjustOwnCommands(root)
	cmd, err := root.ExecuteContextC(ctx)
	return report(stderr, cmd, err)
}

// root makes the tree of commands.
func (a *app) root() *cobra.Command {
	root := group("sluice", "A routing mesh for published ports: every node answers, any endpoint serves",
		a.agentVerb(), a.initVerb(), a.joinVerb(), a.leaveVerb(), a.loginVerb(), a.logoutVerb(),
		group("token", "What others become members with", a.tokenCreate(), a.tokenList(), a.tokenRemove()),
		group("key", "The keys by which the nodes gossip", a.keyRotate(), a.keyList()),
		group("node", "The nodes of the cluster", a.nodeList(), a.nodeRemove()),
		group("network", "The networks: overlays, and bridges that each node has for itself",
			a.networkCreate(), a.networkUpdate(), a.networkList(), a.networkInspect(), a.networkRemove()),
		group("service", "The services and their published ports",
			a.serviceCreate(), a.serviceUpdate(), a.serviceList(), a.serviceInspect(), a.serviceRemove()),
		group("endpoint", "The workloads that serve", a.endpointAttach(), a.endpointConnect(), a.endpointDisconnect(),
			a.endpointDrain(), a.endpointDetach(), a.endpointList(), a.endpointInspect()),
		a.runVerb(), a.statusVerb(), a.planVerb(), a.explainVerb(), a.eventsVerb(), a.doctorVerb(), a.resetVerb(), a.manVerb(), versionVerb())
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.PersistentFlags().StringVar(&a.host, "host", "",
		"the agent's `ADDRESS`, unix:///PATH, or tcp://ADDR:PORT after \"sluice login\" (default $SLUICE_HOST, or "+defaultHost+")")
	return root
}

// group is a command that only holds others. Cobra would answer an unknown one
// below it with the help text and success.
func group(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs, RunE: refuseUnknown}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(verbs...)
	return cmd
}

// refuseUnknown is what a group does when it is called itself.
func refuseUnknown(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return fmt.Errorf("there is no command %q, there is %q", args[0], near[0])
		}
		return fmt.Errorf("there is no command %q", args[0])
	}
	var names []string
	for _, verb := range cmd.Commands() {
		if verb.IsAvailableCommand() {
			names = append(names, verb.Name())
		}
	}
	return fmt.Errorf("a command is missing, one of %s", strings.Join(names, ", "))
}

// adjustOwnCommands makes cobra's own "completion" and "help" refuse what they
// do not know, as every other command does. The streams must be set before:
// completion keeps stdout from when it is made.
func adjustOwnCommands(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Args, cmd.RunE = cobra.ArbitraryArgs, refuseUnknown
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error { return knownTopic(root, args) }
		}
	}
}

// knownTopic refuses a command path that does not exist.
func knownTopic(root *cobra.Command, path []string) error {
	cmd := root
	for _, name := range path {
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
		if i < 0 {
			return fmt.Errorf("there is no command %q", strings.Join(path, " "))
		}
		cmd = cmd.Commands()[i]
	}
	return nil
}

// words takes exactly the named arguments.
func words(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("argument %q is too much", args[len(names)])
		}
		return nil
	}
}
