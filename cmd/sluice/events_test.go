package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// fakeEvents sends what answers holds under WatchEvents, a list of events or an error. To whom
// follows it says nothing more then.
type fakeEvents struct {
	sluicev1.UnimplementedEventServiceServer
	agent *fakeAgent
}

func (f fakeEvents) WatchEvents(req *sluicev1.WatchEventsRequest, stream grpc.ServerStreamingServer[sluicev1.WatchEventsResponse]) error {
	text, err := toJSON(req)
	if err != nil {
		return err
	}
	f.agent.mu.Lock()
	f.agent.asked = append(f.agent.asked, "WatchEvents "+string(text))
	f.agent.mu.Unlock()
	if err, refused := f.agent.answers["WatchEvents"].(error); refused {
		return err
	}
	some, _ := f.agent.answers["WatchEvents"].([]*sluicev1.Event)
	for _, e := range some {
		if err := stream.Send(&sluicev1.WatchEventsResponse{Event: e}); err != nil {
			return err
		}
	}
	if req.GetFollow() {
		<-stream.Context().Done()
	}
	return nil
}

func someEvents() map[string]any {
	return map[string]any{"WatchEvents": []*sluicev1.Event{
		{Revision: 2000000000001, Time: at(1), Kind: "AgentStarted", Object: "node one", Text: "version v1"},
		{Revision: 2000000000002, Time: at(2), Kind: "EndpointCreated", Object: "endpoint web.1"},
		{Revision: 2000000000003, Time: at(3), Kind: "ObjectRepaired", Object: "host: table inet sluice", Text: "add again, changed by \x1b[2J (pid 7)"},
	}}
}

func TestEventsVerb(t *testing.T) {
	checkForms(t, someEvents(), "events", "--since", "2000000000000")
}

// Who follows the events ends that by Ctrl-C, with success.
func TestEventsFollow(t *testing.T) {
	f := startAgent(t, someEvents())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr lockedBuffer
	done := make(chan int, 1)
	go func() {
		done <- newApp().run(ctx, []string{"--host", f.host, "events", "--follow"}, strings.NewReader(""), &stdout, &stderr)
	}()
	for deadline := time.Now().Add(10 * time.Second); strings.Count(stdout.String(), "\n") < 3; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("printed %q, %q", stdout.String(), stderr.String())
		}
	}
	cancel()
	if status := <-done; status != 0 || stderr.String() != "" {
		t.Errorf("exit status %d, stderr %q", status, stderr.String())
	}
}

func TestEventsRefused(t *testing.T) {
	f := startAgent(t, map[string]any{"WatchEvents": refusal(t, codes.OutOfRange, "EventsGone", "the oldest event still there has revision 7", "ask without a revision")})
	got := f.sluice(t, "events", "--since", "3")
	golden.Equal(t, got.stdout+got.stderr)
	if got.status != 1 {
		t.Errorf("exit status %d", got.status)
	}
}

// lockedBuffer is a buffer that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
