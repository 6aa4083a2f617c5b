package agent

import (
	"errors"
	"testing"
	"time"
)

func TestPresence(t *testing.T) {
	heard, silence := observation{alive: true}, observation{}
	for _, c := range []struct {
		was    presence
		gossip observation
		kernel kernelAnswer
		want   presence
	}{
		{presenceSilent, heard, kernelUnknown, presenceAlive},
		{presenceAlive, heard, kernelAnswers, presenceAlive},
		{presenceAlive, heard, kernelMute, presenceAlive}, // the tunnel is cut, and gossip is not
		{presenceGone, heard, kernelMute, presenceAlive},
		{presenceAlive, silence, kernelAnswers, presenceAgentDown},
		{presenceGone, silence, kernelAnswers, presenceAgentDown},
		{presenceAlive, silence, kernelMute, presenceGone},
		{presenceAgentDown, silence, kernelMute, presenceGone},
		{presenceSilent, silence, kernelMute, presenceGone},
		{presenceAlive, silence, kernelUnknown, presenceSilent}, // it cannot be asked: nothing is removed
		{presenceAgentDown, silence, kernelUnknown, presenceSilent},
		{presenceSilent, silence, kernelUnknown, presenceSilent},
		{presenceGone, silence, kernelUnknown, presenceGone}, // nor does it come back by that
	} {
		if got := c.was.next(c.gossip, c.kernel); got != c.want {
			t.Errorf("%s, gossip %v, kernel %q: %s, want %s", c.was, c.gossip.alive, c.kernel, got, c.want)
		}
	}
}

// A story of one kernel: at a time in milliseconds something happens, and then the
// kernel is thought to do this, and is asked again or judged at that time.
func TestBeat(t *testing.T) {
	type step struct {
		at     int
		what   string // ask, judge, fault, or the number of an echo from the first on that is answered
		answer kernelAnswer
		missed int
		due    int
	}
	for name, story := range map[string][]step{
		"it answers": {
			{0, "ask", kernelUnknown, 0, 200},
			{1, "1", kernelAnswers, 0, 1000},
			{200, "judge", kernelAnswers, 0, 1000},
			{1000, "ask", kernelAnswers, 0, 1200},
			{1150, "2", kernelAnswers, 0, 2000},
		},
		"it falls silent": {
			{0, "ask", kernelUnknown, 0, 200},
			{1, "1", kernelAnswers, 0, 1000},
			{1000, "ask", kernelAnswers, 0, 1200},
			{1100, "judge", kernelAnswers, 0, 1200},
			{1200, "judge", kernelAnswers, 1, 1200},
			{1200, "ask", kernelAnswers, 1, 1400},
			{1400, "judge", kernelAnswers, 2, 1400},
			{1400, "ask", kernelAnswers, 2, 1600},
			{1600, "judge", kernelMute, 3, 2400},
			{2400, "ask", kernelMute, 3, 2600},
			{2600, "judge", kernelMute, 3, 3400},
			{3400, "ask", kernelMute, 3, 3600},
			{3401, "6", kernelAnswers, 0, 4400},
		},
		"two are lost": {
			{0, "ask", kernelUnknown, 0, 200},
			{200, "judge", kernelUnknown, 1, 200},
			{200, "ask", kernelUnknown, 1, 400},
			{400, "judge", kernelUnknown, 2, 400},
			{400, "ask", kernelUnknown, 2, 600},
			{599, "3", kernelAnswers, 0, 1400},
		},
		"it answers late": {
			{0, "ask", kernelUnknown, 0, 200},
			{200, "judge", kernelUnknown, 1, 200},
			{200, "ask", kernelUnknown, 1, 400},
			{300, "1", kernelAnswers, 0, 400},
			{400, "judge", kernelAnswers, 1, 400},
			{410, "2", kernelAnswers, 0, 1200},
		},
		"old and foreign answers": {
			{0, "ask", kernelUnknown, 0, 200},
			{1, "2", kernelUnknown, 0, 200},
			{1, "0", kernelUnknown, 0, 200},
			{1, "-9", kernelUnknown, 0, 200},
			{1, "1", kernelAnswers, 0, 1000},
			{1000, "ask", kernelAnswers, 0, 1200},
			{1001, "1", kernelAnswers, 0, 1200},
			{1200, "judge", kernelAnswers, 1, 1200},
		},
		"it cannot be asked": {
			{0, "ask", kernelUnknown, 0, 200},
			{1, "1", kernelAnswers, 0, 1000},
			{1000, "fault", kernelUnknown, 0, 2000},
			{1001, "1", kernelUnknown, 0, 2000},
			{2000, "ask", kernelUnknown, 0, 2200},
			{2200, "judge", kernelUnknown, 1, 2200},
			{2200, "fault", kernelUnknown, 0, 3200},
			{3200, "ask", kernelUnknown, 0, 3400},
			{3400, "judge", kernelUnknown, 1, 3400},
		},
		"gossip gives it up, and it is mute": {
			{0, "ask", kernelUnknown, 0, 200},
			{200, "judge", kernelUnknown, 1, 200},
			{200, "ask", kernelUnknown, 1, 400},
			{400, "judge", kernelUnknown, 2, 400},
			{400, "ask", kernelUnknown, 2, 600},
			{600, "judge", kernelMute, 3, 1400},
			{700, "afresh", kernelUnknown, 2, 700},
			{700, "ask", kernelUnknown, 2, 900},
			{900, "judge", kernelMute, 3, 1700},
		},
		"gossip gives it up as its link comes back": {
			{0, "ask", kernelUnknown, 0, 200},
			{200, "judge", kernelUnknown, 1, 200},
			{200, "ask", kernelUnknown, 1, 400},
			{400, "judge", kernelUnknown, 2, 400},
			{400, "ask", kernelUnknown, 2, 600},
			{500, "afresh", kernelUnknown, 2, 500},
			{500, "ask", kernelUnknown, 2, 700},
			{600, "judge", kernelUnknown, 2, 700}, // the third one is no proof
			{650, "4", kernelAnswers, 0, 1500},
		},
		"gossip gives up whom nobody can ask": {
			{0, "fault", kernelUnknown, 0, 1000},
			{100, "afresh", kernelUnknown, 0, 1000},
		},
		// Nothing was judged while this process stood still: what came is taken in first.
		"this process was stopped": {
			{0, "ask", kernelUnknown, 0, 200},
			{60000, "1", kernelAnswers, 0, 1000},
			{60000, "judge", kernelAnswers, 0, 1000},
			{60000, "ask", kernelAnswers, 0, 60200},
		},
	} {
		t.Run(name, func(t *testing.T) {
			const first = 65534 // numbers begin again at 0 soon
			start := time.Unix(1000, 0)
			b := beat{due: start, newest: first}
			for i, s := range story {
				now := start.Add(time.Duration(s.at) * time.Millisecond)
				switch s.what {
				case "ask":
					if !b.ready(now) {
						t.Fatalf("step %d: it is not time to ask: %+v", i, b)
					}
					b = b.asked(now, echoPeriod)
				case "judge":
					b = b.judged(now)
				case "afresh":
					b = b.afresh(now)
				case "fault":
					b = b.failed(now, errors.New("no socket"), echoPeriod)
				default:
					number := int(s.what[len(s.what)-1] - '0')
					if s.what[0] == '-' {
						number = -number
					}
					b = b.answered(now, uint16(first+number))
				}
				if due := int(b.due.Sub(start) / time.Millisecond); b.answer != s.answer || b.missed != s.missed || due != s.due {
					t.Fatalf("step %d (%s at %d): %q, %d missed, due %d, want %q, %d, %d", i, s.what, s.at, b.answer, b.missed, due, s.answer, s.missed, s.due)
				}
			}
		})
	}
}
