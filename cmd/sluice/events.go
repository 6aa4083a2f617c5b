package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// eventsVerb shows what happened, and what happens.
func (a *app) eventsVerb() *cobra.Command {
	var out format
	req := &sluicev1.WatchEventsRequest{}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened: nodes, services, endpoints, repairs, problems",
		Long: "Show what happened, as this node saw it: nodes that came and went, networks, services and endpoints that were\n" +
			"created, changed and deleted and by which node, objects that were repaired and who had changed them, problems\n" +
			"that began and ended. The agent keeps the last 4096. With --since REV only what came after that event: refused\n" +
			"where one of those is not kept any more. With -o json each event is one line.",
		Args: words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.watch(cmd, req, func(e *sluicev1.Event) error { return printEvent(cmd.OutOrStdout(), out, e) })
		},
	}
	cmd.Flags().BoolVar(&req.Follow, "follow", false, "go on with what is still to come, until interrupted")
	cmd.Flags().Uint64Var(&req.Since, "since", 0, "only events after that of revision `REV` (default all that are kept)")
	out.addTo(cmd)
	return cmd
}

// watch gives each event to show until there are no more, or until the person who follows them
// interrupts.
func (a *app) watch(cmd *cobra.Command, req *sluicev1.WatchEventsRequest, show func(*sluicev1.Event) error) error {
	c := a.to("show the events")
	conn, d, err := c.connect()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	if !req.GetFollow() {
		ctx, cancel = context.WithTimeout(ctx, c.limit)
		defer cancel()
	}
	stream, err := sluicev1.NewEventServiceClient(conn).WatchEvents(ctx, req)
	for err == nil {
		var resp *sluicev1.WatchEventsResponse
		if resp, err = stream.Recv(); err == nil {
			if err := show(resp.GetEvent()); err != nil {
				return &failure{what: "print the events", why: err.Error(), do: "ask for them again"}
			}
		}
	}
	if errors.Is(err, io.EOF) || req.GetFollow() && cmd.Context().Err() != nil {
		return nil
	}
	return c.explain(err, d)
}

// printEvent writes one event in a form. There is no end to wait for before columns could be
// aligned, so they have fixed widths.
func printEvent(w io.Writer, f format, e *sluicev1.Event) error {
	var text []byte
	var err error
	switch f {
	case formatJSON:
		text, err = jsonLine(e)
	case formatYAML:
		if text, err = toYAML(e); err == nil {
			text = append([]byte("---\n"), text...)
		}
	default:
		text = fmt.Appendf(nil, "%-20s  %d  %-16s  %-36s  %s\n",
			moment(e.GetTime()), e.GetRevision(), clean(e.GetKind()), clean(e.GetObject()), clean(e.GetText()))
		text = append(bytes.TrimRight(text, " \n"), '\n')
	}
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// jsonLine is toJSON on one line.
func jsonLine(e *sluicev1.Event) ([]byte, error) {
	packed, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(e)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := json.Compact(&text, packed); err != nil {
		return nil, err
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}
