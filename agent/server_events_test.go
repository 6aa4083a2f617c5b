package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// watch reads the events that are there.
func (a *testAgent) watch(since uint64) ([]*sluicev1.Event, error) {
	a.tb.Helper()
	stream, err := sluicev1.NewEventServiceClient(a.conn).WatchEvents(a.tb.Context(), &sluicev1.WatchEventsRequest{Since: since})
	if err != nil {
		return nil, err
	}
	var all []*sluicev1.Event
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, resp.GetEvent())
	}
}

// eventLines are events without time and revision.
func (a *testAgent) eventLines() string {
	a.tb.Helper()
	all, err := a.watch(0)
	if err != nil {
		a.tb.Fatal(err)
	}
	var lines strings.Builder
	for _, e := range all {
		lines.WriteString(e.GetKind() + " " + e.GetObject() + ": " + e.GetText() + "\n")
	}
	return lines.String()
}

// holdsLines waits until the agent has all of the events.
func (a *testAgent) holdsLines(want ...string) {
	a.tb.Helper()
	for _, line := range want {
		eventually(a.tb, a.cfg.Name+" has the event "+line, func() bool { return strings.Contains(a.eventLines(), line) })
	}
}

func TestEvents(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.create("web", "8080:80")
	a.attach("web.1")
	if _, err := a.endpoints.DrainEndpoint(t.Context(), &sluicev1.DrainEndpointRequest{Endpoint: "web.1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.endpoints.DetachEndpoint(t.Context(), &sluicev1.DetachEndpointRequest{Endpoint: "web.1"}); err != nil {
		t.Fatal(err)
	}
	b.holdsLines("AgentStarted node n2: version test\n", "NodeJoined node n2: this node entered the cluster\n",
		"ServiceCreated service web: publishes 8080:80/tcp; by n1\n",
		"EndpointCreated endpoint web.1: by n1\n", "EndpointDraining endpoint web.1: by n1\n", "EndpointDeleted endpoint web.1: by n1\n",
		"ProblemBegan service web port tcp/8080: NoReadyEndpoint: ")
	a.holdsLines("NodeJoined node n2: ID " + b.status().GetNode().GetId() + ", address 192.0.2.12\n")
	if text := b.eventLines(); strings.Contains(text, "web.1: addresses none") || strings.Contains(text, "ServiceCreated service web: publishes 8080:80/tcp; by n2") {
		t.Errorf("got\n%s", text)
	}
	if _, err := b.services.RemoveService(t.Context(), &sluicev1.RemoveServiceRequest{Service: "web"}); err != nil {
		t.Fatal(err)
	}
	a.holdsLines("ServiceDeleted service web: by n2\n")
	b.holdsLines("ProblemEnded service web port tcp/8080: NoReadyEndpoint: ")
	eventually(t, "the plan stands", func() bool { // what a round brings anew is no repair
		s := a.status()
		return s.GetAppliedRevision() == s.GetRevision()
	})
	a.machine.sabotage(t, "nft (pid 4711)", kernel.Op{Verb: kernel.Add, Sandbox: plan.HostSandbox, Object: plan.Addr{
		Link: plan.UplinkHost, Prefix: netip.MustParsePrefix("169.254.77.1/24"),
	}})
	a.holdsLines("ObjectRepaired host: addr", "changed by nft (pid 4711)\n")
	eventsResume(t, a)
	b.holdsLines("NodeSilent node n1: ", "NodeAlive node n1: ")
}

// eventsResume goes on where a reader ended, also over a restart.
func eventsResume(t *testing.T, a *testAgent) {
	t.Helper()
	all, err := a.watch(0)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range all {
		if e.GetRevision() != all[0].GetRevision()+uint64(i) || e.GetTime() == nil {
			t.Errorf("event %d is %v", i, e)
		}
	}
	rest, err := a.watch(all[2].GetRevision())
	if err != nil || len(rest) < len(all)-3 || rest[0].GetRevision() != all[3].GetRevision() {
		t.Errorf("got %d events, %v", len(rest), err)
	}
	last := rest[len(rest)-1].GetRevision()
	a.stop()
	a.start()
	_, err = a.watch(last)
	refused(t, err, EventsGone, codes.OutOfRange)
	again, err := a.watch(0)
	if err != nil || len(again) == 0 || again[0].GetRevision() <= last || again[0].GetKind() != string(AgentStarted) {
		t.Errorf("after the restart: %v, %v", again, err)
	}
}

// A reader that follows hears what comes, and of the end of the agent.
func TestEventsFollow(t *testing.T) {
	a := newTestAgent(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := sluicev1.NewEventServiceClient(a.conn).WatchEvents(ctx, &sluicev1.WatchEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	next := func() string {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetEvent().GetKind()
	}
	if got := next(); got != string(AgentStarted) {
		t.Errorf("the first event is %s", got)
	}
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != string(NodeJoined) {
		t.Errorf("then comes %s", got)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	a.cancel()
	refused(t, <-ended, Stopping, codes.Unavailable)
	a.stop()
}

// A reader that does not read is cut off, and neither makes the writer wait nor keeps more
// than what is under way to it.
func TestEventsSlowReader(t *testing.T) {
	e := newEvents(time.Now, 1, ringRoom)
	e.add(AgentStarted, "node n1", "")
	server := (&api{events: e, loop: &loop{stopped: make(chan struct{})}}).server(slog.New(slog.DiscardHandler))
	listener := bufconn.Listen(1 << 10)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///events", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := sluicev1.NewEventServiceClient(conn).WatchEvents(t.Context(), &sluicev1.WatchEventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	text := strings.Repeat("x", 1000)
	for range 20 * ringRoom {
		e.add(ProblemBegan, "service web", text)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the writer took %s", took)
	}
	last := uint64(0)
	for {
		resp, err := stream.Recv()
		if err != nil {
			refused(t, err, TooSlow, codes.ResourceExhausted)
			break
		}
		if rev := resp.GetEvent().GetRevision(); last != 0 && rev != last+1 {
			t.Fatalf("after event %d comes %d", last, rev)
		}
		last = resp.GetEvent().GetRevision()
	}
}
