// Command sluice is the agent of a node and the command line that speaks to it.
//
// The verbs are one file a noun; each makes a request of its flags, asks the
// agent (client.go) and prints the answer (output.go). Only "agent" and "run" do
// something on this machine themselves.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), heard(syscall.SIGINT, syscall.SIGTERM)...)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run carries out one command line and returns its exit status. Cancelling ctx
// ends a call that waits for the agent, and the agent itself.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newApp().run(ctx, args, stdin, stdout, stderr)
}
