package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"sync/atomic"
	"time"
)

// A peer with another key, or a broken one, makes a line for each of its
// packets: no more than this many lines are written in one period.
const (
	logLines  = 20
	logPeriod = 5 * time.Second
)

// logbook is a logger with that limit; at the end of a period it tells how much it kept
// back. It is also the io.Writer of memberlist's logger. Safe for concurrent use.
type logbook struct {
	*slog.Logger
	unlimited *slog.Logger
	used      *atomic.Int64
}

func newLogbook(log *slog.Logger) *logbook {
	used := new(atomic.Int64)
	return &logbook{Logger: slog.New(limiter{log.Handler(), used}), unlimited: log, used: used}
}

// turn begins a new period.
func (b *logbook) turn() {
	if kept := b.used.Swap(0) - logLines; kept > 0 {
		b.unlimited.Warn("gossip log lines kept back", "count", kept)
	}
}

// limiter is a slog.Handler that drops what comes after logLines.
type limiter struct {
	slog.Handler
	used *atomic.Int64
}

func (l limiter) Handle(ctx context.Context, r slog.Record) error {
	if l.used.Add(1) > logLines {
		return nil
	}
	return l.Handler.Handle(ctx, r)
}

func (l limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limiter{l.Handler.WithAttrs(attrs), l.used}
}

func (l limiter) WithGroup(name string) slog.Handler {
	return limiter{l.Handler.WithGroup(name), l.used}
}

// Write takes one line of memberlist's log.
func (b *logbook) Write(line []byte) (int, error) {
	level, text := split(line)
	b.Log(context.Background(), level, "memberlist", "text", text)
	return len(line), nil
}

func (b *logbook) std() *log.Logger { return log.New(b, "", 0) }

// split maps "[WARN] memberlist: text". What memberlist calls an error is about one
// peer or packet and is tried again, so it is a warning to us; its INFO tells of
// each push/pull.
func split(line []byte) (slog.Level, string) {
	level, rest := slog.LevelInfo, bytes.TrimSpace(line)
	if tag, after, ok := bytes.Cut(rest, []byte("] ")); ok && bytes.HasPrefix(tag, []byte("[")) {
		rest = after
		switch string(tag[1:]) {
		case "ERR", "ERROR", "WARN":
			level = slog.LevelWarn
		default:
			level = slog.LevelDebug
		}
	}
	return level, string(bytes.TrimPrefix(rest, []byte("memberlist: ")))
}
