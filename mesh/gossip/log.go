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

// logbook writes with a limit and tells at the end of a period how much it kept back.
// It is an io.Writer for memberlist's logger. Safe for concurrent use.
type logbook struct {
	log  *slog.Logger
	used atomic.Int64
}

// Log writes one line, or counts it where the period's lines are used up.
func (b *logbook) Log(level slog.Level, msg string, args ...any) {
	if b.log.Enabled(context.Background(), level) && b.used.Add(1) <= logLines {
		b.log.Log(context.Background(), level, msg, args...)
	}
}

// turn begins a new period.
func (b *logbook) turn() {
	if kept := b.used.Swap(0) - logLines; kept > 0 {
		b.log.Warn("gossip log lines kept back", "count", kept)
	}
}

// Write takes one line of memberlist's log.
func (b *logbook) Write(line []byte) (int, error) {
	level, text := split(line)
	b.Log(level, "memberlist", "text", text)
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
