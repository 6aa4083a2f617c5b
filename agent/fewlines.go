package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Strangers make lines of the log: no more than so many in one period.
const (
	strangersLines  = 20
	strangersPeriod = 5 * time.Second
)

// fewLines is a slog.Handler with that limit; the next line after it says how many were kept back.
type fewLines struct {
	slog.Handler
	*lines
}

type lines struct {
	mu   sync.Mutex
	ends time.Time
	used int
}

func newFewLines(log *slog.Logger) *slog.Logger { return slog.New(fewLines{log.Handler(), &lines{}}) }

// Handle is for slog.Handler.
func (f fewLines) Handle(ctx context.Context, r slog.Record) error {
	now := time.Now()
	f.mu.Lock()
	kept := 0
	if !now.Before(f.ends) {
		kept = f.used - strangersLines
		f.ends, f.used = now.Add(strangersPeriod), 0
	}
	f.used++
	over := f.used > strangersLines
	f.mu.Unlock()
	if over {
		return nil
	}
	if kept > 0 {
		r.AddAttrs(slog.Int("kept_back", kept))
	}
	return f.Handler.Handle(ctx, r)
}

// WithAttrs is for slog.Handler.
func (f fewLines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return fewLines{f.Handler.WithAttrs(attrs), f.lines}
}

// WithGroup is for slog.Handler.
func (f fewLines) WithGroup(name string) slog.Handler {
	return fewLines{f.Handler.WithGroup(name), f.lines}
}
