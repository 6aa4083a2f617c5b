package scenarios

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// Fabric is three nodes with what is around them, on some kernel, with one balancer.
// It is for one goroutine at a time.
type Fabric interface {
	// Balancer is what all its nodes balance with.
	Balancer() mesh.Balancer
	// Begin puts into an empty world what the fabric always has.
	Begin(w *world) error
	// Settle makes all nodes what the world says, and starts and ends workloads.
	Settle(ctx context.Context, w *world) error
	// Empty makes all nodes what a world is in which nothing happened yet, and says what is
	// left of earlier ones; nil: nothing.
	Empty(ctx context.Context, w *world) error

	// Dial asks until as many servers as expected have answered, or often enough to say
	// that they do not.
	Dial(a ask, expected int) (seen, error)
	// Hold opens a flow that the server answers.
	Hold(a ask, server string) (flow, error)
	// OnePort asks all places at once from one client port.
	OnePort(from string, at target, how How) (seen, error)
	// Clients says who answers each of n clients; all places are asked. false: this
	// fabric cannot know, as no packet passes.
	Clients(n int, at ask) ([]string, bool, error)
	// Spread counts who answers n new connections.
	Spread(n int, a ask) (map[string]int, bool, error)
}

// ask is one question.
type ask struct {
	from string
	to   string
	port uint16
	how  How
	at   netip.Addr // of a place that is a service's on a network; the zero value for others
}

// flow is one that stays open.
type flow interface {
	ask() string // a server, or a failure
	close()
}

// The failures, beside servers' names.
const (
	refused     = "refused" // by reset or port unreachable, at once
	reset       = "reset"   // of what was open
	silence     = "silence"
	unreachable = "unreachable"
)

// seen is what came of a question: servers and failures, and whom the servers saw.
type seen struct {
	names   []string
	sources []string
}

// add notes one answer, or failure where it saw nobody.
func (s *seen) add(name, source string) {
	if !slices.Contains(s.names, name) {
		s.names = append(s.names, name)
		slices.Sort(s.names)
	}
	if source != "" && !slices.Contains(s.sources, source) {
		s.sources = append(s.sources, source)
		slices.Sort(s.sources)
	}
}

// String is "a|b source c1".
func (s seen) String() string {
	text := strings.Join(s.names, "|")
	if len(s.sources) > 0 {
		text += " source " + strings.Join(s.sources, "|")
	}
	return text
}
