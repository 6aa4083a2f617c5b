package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-mesh/sluice/mesh"
)

// supervisor is the service manager that started this process, usually systemd.
type supervisor struct {
	tell     func(state string) error // one message of sd_notify(3)
	patience time.Duration            // without a sign of life it restarts the process after this long; 0: never
}

// ownSupervisor is nil where nobody waits for messages. What it reads of the environment
// is about this process alone; NOTIFY_SOCKET must stay, the library reads it each time.
func ownSupervisor() (*supervisor, error) {
	patience, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		return nil, fmt.Errorf("read what the service manager set: %w", err)
	}
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil, nil
	}
	return &supervisor{patience: patience, tell: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}, nil
}

const (
	// roundLimit is how long the loop may be in one round, or kept from one, and still count
	// as alive: many times what 10,000 services take, and several programs that hang until
	// they are given up.
	roundLimit = 2 * time.Minute
	// answerLimit is how long the API may take to say that it is there.
	answerLimit = 5 * time.Second
	// askAgain is the time until a second look at what did not count as alive: sooner than
	// usual, for one late answer must not end the agent.
	askAgain = time.Second
	// reportEvery is how often the status is told where nobody waits for signs of life.
	reportEvery = 10 * time.Second
)

// reporter tells the supervisor how the agent does.
type reporter struct {
	*supervisor // nil: there is nobody to tell
	own         mesh.NodeID
	status      *status
	now         func() time.Time
	check       func(ctx context.Context) error // asks the API
	log         *slog.Logger

	began time.Time
	said  string // the status that was told last
}

// run tells that the agent is ready once a round has ended and the API answers, and from then on
// that it is alive while both go on. It ends with ctx.
func (r *reporter) run(ctx context.Context) error {
	if r.supervisor == nil {
		return nil
	}
	r.began = r.now()
	if !r.firstRound(ctx) {
		return nil
	}
	for r.alive(ctx) != nil {
		if !sleep(ctx, askAgain) {
			return nil
		}
	}
	r.send(daemon.SdNotifyReady)
	for {
		if !sleep(ctx, r.beat(ctx)) {
			r.send(daemon.SdNotifyStopping)
			return nil
		}
	}
}

// firstRound waits for the end of a round; false where ctx ended first.
func (r *reporter) firstRound(ctx context.Context) bool {
	for {
		_, next := r.status.applied()
		if !r.status.view().applied.IsZero() {
			return true
		}
		select {
		case <-next:
		case <-ctx.Done():
			return false
		}
	}
}

// beat gives a sign of life, or says why there is none, and returns the time until the next.
func (r *reporter) beat(ctx context.Context) time.Duration {
	if err := r.alive(ctx); err != nil {
		if ctx.Err() == nil { // otherwise the end has begun, and what did not answer proves nothing
			if text := "not alive: " + err.Error(); text != r.said {
				r.log.Error("the agent does not count as alive", "err", err)
				r.report(text)
			}
		}
		return askAgain
	}
	r.report(r.status.view().summary(r.own))
	if r.patience == 0 {
		return reportEvery
	}
	r.send(daemon.SdNotifyWatchdog)
	return r.patience / 2
}

// alive says why the agent does not count as alive, or is nil.
func (r *reporter) alive(ctx context.Context) error {
	last := r.status.view().applied
	if last.IsZero() {
		last = r.began
	}
	if r.now().Sub(last) > roundLimit {
		return fmt.Errorf("no round has ended for %s", roundLimit)
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	if err := r.check(ctx); err != nil {
		return fmt.Errorf("ask the own API: %w", err)
	}
	return nil
}

// report tells a status that is not the last one.
func (r *reporter) report(text string) {
	if text != r.said {
		r.said = text
		r.send("STATUS=" + text)
	}
}

// send is not tried again: what matters is sent again by itself.
func (r *reporter) send(state string) {
	if err := r.tell(state); err != nil {
		r.log.Error("the service manager was not told", "state", state, "err", err)
	}
}

// summary is one line for whoever asks the service manager.
func (v view) summary(own mesh.NodeID) string {
	text := "in no cluster"
	if v.snap.Node(own) != nil {
		text = fmt.Sprintf("in a cluster of %d, %d services, %d endpoints", len(v.snap.Nodes), len(v.snap.Services), len(v.snap.Endpoints))
	}
	if len(v.problems) > 0 {
		text += fmt.Sprintf("; %d problems, see sluice status", len(v.problems))
	}
	return text
}

// sleep waits; false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// checkAPI asks the API at a socket whether it is there, as a client does.
func checkAPI(socket string) func(ctx context.Context) error {
	return func(ctx context.Context) (err error) {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		return err
	}
}
