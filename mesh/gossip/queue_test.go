package gossip

import (
	"bytes"
	"log/slog"
	"testing"

	"pgregory.net/rapid"

	"github.com/sluice-mesh/sluice/mesh"
)

// The limit is exact, each message leaves a bounded number of times, and of a record
// only the newest version is there, in whatever order versions come.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := newQueue(func() int { return 3 })
		newest := map[string]uint64{}
		for range rapid.IntRange(1, 30).Draw(t, "puts") {
			r := service(rapid.IntRange(0, 5).Draw(t, "record"))
			r.Version.Time = rapid.Uint64Range(1, 9).Draw(t, "time")
			q.put(r, append([]byte{byte(r.Version.Time)}, r.ID...))
			newest[r.ID] = max(newest[r.ID], r.Version.Time)
		}
		sent := map[string]int{}
		for range 100 {
			overhead, limit := rapid.IntRange(0, 5).Draw(t, "overhead"), rapid.IntRange(1, 80).Draw(t, "limit")
			size := 0
			for _, msg := range q.get(overhead, limit) {
				size += overhead + len(msg)
				id := string(msg[1:])
				if uint64(msg[0]) != newest[id] {
					t.Fatalf("version %d of %s, newest is %d", msg[0], id, newest[id])
				}
				if sent[id]++; sent[id] > retransmitMult {
					t.Fatalf("%s was sent %d times", id, sent[id])
				}
			}
			if size > limit {
				t.Fatalf("%d bytes, limit %d", size, limit)
			}
		}
		for range 100 {
			q.get(0, 1000)
		}
		if len(q.versions) != 0 || q.sends.NumQueued() != 1 {
			t.Fatalf("%d versions, %d messages stay", len(q.versions), q.sends.NumQueued()-1)
		}
	})
}

func TestOutboxKeepsNewest(t *testing.T) {
	o := newOutbox()
	newer, older := service(1), service(1)
	newer.Version, older.Version = mesh.Version{Time: 2}, mesh.Version{Time: 1}
	o.put(newer, older)
	if got := o.take(); len(got) != 1 || got[0].Version.Time != 2 {
		t.Errorf("got %v", got)
	}
	if got := o.take(); len(got) != 0 {
		t.Errorf("taken twice: %v", got)
	}
}

// NotifyMsg neither keeps the slice nor blocks, and memberlist carries no records.
func TestDelegate(t *testing.T) {
	var out bytes.Buffer
	book := newLogbook(slog.New(slog.NewTextHandler(&out, nil)))
	d := newDelegate(Config{ID: nodeID(1), State: &memory{}}, newQueue(func() int { return 1 }), book)
	msg := message(goodLine(t))
	d.MergeRemoteState(msg, false)
	if m, ok := d.state.(*memory); !ok || m.merges != 0 || d.LocalState(true) != nil {
		t.Error("memberlist's exchange carries records")
	}
	d.NotifyMsg([]byte{wireVersion, 0x82}) // serf's join intent begins so
	if len(d.inbox) != 0 {
		t.Error("another program's message was taken")
	}
	d.NotifyMsg(msg)
	msg[0] = 0xff
	if got := <-d.inbox; got[0] != wireVersion {
		t.Error("the slice was kept")
	}
	for range inboxSize + 100 {
		d.NotifyMsg(msg)
	}
	d.NotifyMsg(make([]byte, noticeLimit+1))
	if len(d.inbox) != inboxSize {
		t.Errorf("%d wait", len(d.inbox))
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != logLines {
		t.Errorf("%d log lines", n)
	}
	book.turn()
	if !bytes.Contains(out.Bytes(), []byte("kept back")) {
		t.Error("nothing tells of the lines kept back")
	}
	d.close()
	d.take(message(goodLine(t)))
	if m, ok := d.state.(*memory); !ok || m.merges != 0 {
		t.Error("state was called after close")
	}
}

func TestLogLevels(t *testing.T) {
	for line, want := range map[string]struct {
		level slog.Level
		text  string
	}{
		"[ERR] memberlist: Failed to send\n": {slog.LevelWarn, "Failed to send"},
		"[WARN] memberlist: Refuting":        {slog.LevelWarn, "Refuting"},
		"[INFO] memberlist: Suspect":         {slog.LevelDebug, "Suspect"},
		"[DEBUG] memberlist: x] y":           {slog.LevelDebug, "x] y"},
		"plain":                              {slog.LevelInfo, "plain"},
	} {
		if level, text := split([]byte(line)); level != want.level || text != want.text {
			t.Errorf("%q: %v %q", line, level, text)
		}
	}
}
