package trust

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/sluice-mesh/sluice/mesh"
)

// line is a CA and those that came after it.
func line(tb testing.TB, times int) (all []*Authority, successions [][]byte) {
	tb.Helper()
	all = []*Authority{testAuthority(tb)}
	for i := range times {
		next := must[*Authority](tb)(all[i].Next(noon()))
		successions = append(successions, must[[]byte](tb)(all[i].Succeed(next, testKey(1))))
		all = append(all, next)
	}
	return all, successions
}

func TestTrail(t *testing.T) {
	all, successions := line(t, 5)
	whole := must[Trail](t)(Trail{}.Extend(all[0], successions...))
	if len(whole.Steps()) != 5 || whole.End().Pin() != all[5].Pin() || whole.Steps()[0].From.Pin() != all[0].Pin() || whole.Steps()[2].Maker != testKey(1).ID() {
		t.Fatalf("the trail has %d steps to %v", len(whole.Steps()), whole.End())
	}
	if whole.Steps()[0].From.CanIssue() {
		t.Error("a CA's key is in a trail")
	}
	// One by one it is the same.
	var t2 Trail
	for i, s := range successions {
		t2 = must[Trail](t)(t2.Extend(all[i], s))
	}
	a, b := must[[]byte](t)(whole.Marshal()), must[[]byte](t)(t2.Marshal())
	if !bytes.Equal(a, b) {
		t.Error("another trail, step by step")
	}
	// Where the node turns off to another line, what is behind that stays, and no more.
	beside := must[*Authority](t)(all[2].Next(noon()))
	turned := must[Trail](t)(whole.Extend(all[2], must[[]byte](t)(all[2].Succeed(beside, testKey(2)))))
	if len(turned.Steps()) != 3 || turned.End().Pin() != beside.Pin() {
		t.Errorf("%d steps to %v", len(turned.Steps()), turned.End())
	}
	if elsewhere := must[Trail](t)(turned.Extend(all[4], successions[4])); len(elsewhere.Steps()) != 1 {
		t.Errorf("from a CA that it does not pass: %d steps", len(elsewhere.Steps()))
	}
	if got := must[Trail](t)(ParseTrail(a, all[5])); got.End().Pin() != all[5].Pin() {
		t.Errorf("read back, it leads to %v", got.End())
	}
	if none := must[Trail](t)(ParseTrail(nil, all[5])); none.End() != nil {
		t.Error("nothing leads somewhere")
	}
}

func TestTrailRefusals(t *testing.T) {
	all, successions := line(t, 3)
	good := must[Trail](t)(Trail{}.Extend(all[0], successions...)).wire()
	for name, c := range map[string]struct {
		edit   func(*wireTrail)
		reason mesh.Reason
	}{
		"to another CA":     {func(w *wireTrail) { w.Successions = w.Successions[:2] }, WrongCluster},
		"one left out":      {func(w *wireTrail) { w.Successions = [][]byte{w.Successions[0], w.Successions[2]} }, WrongCluster},
		"from another CA":   {func(w *wireTrail) { w.First = all[1].Certificate() }, WrongCluster},
		"no CA":             {func(w *wireTrail) { w.First = []byte("x") }, BadCertificate},
		"no step":           {func(w *wireTrail) { w.Successions = nil }, BadMessage},
		"too many":          {func(w *wireTrail) { w.Successions = make([][]byte, TrailLimit+1) }, BadMessage},
		"of a later format": {func(w *wireTrail) { w.Version = 2 }, NewerVersion},
	} {
		t.Run(name, func(t *testing.T) {
			w := *good
			c.edit(&w)
			_, err := ParseTrail(must[[]byte](t)(json.Marshal(w)), all[3])
			wantReason(t, err, c.reason)
		})
	}
}

// However many generations there were, a trail and the answer to who joins stay within their limits.
func TestTrailIsBounded(t *testing.T) {
	all, successions := line(t, TrailLimit+8)
	long := must[Trail](t)(Trail{}.Extend(all[0], successions...))
	if len(long.Steps()) != TrailLimit || long.End().Pin() != all[len(all)-1].Pin() || long.Steps()[0].From.Pin() != all[8].Pin() {
		t.Fatalf("%d steps to %v", len(long.Steps()), long.End())
	}
	data := must[[]byte](t)(long.Marshal())
	must[Trail](t)(ParseTrail(data, long.End()))
	t.Logf("%d bytes with %d successions", len(data), TrailLimit)
	c := newTestCluster(t)
	c.bundle = Bundle{Authority: all[len(all)-1], Gossip: make([]Secret, gossipLimit)}
	c.node = member(t, c.bundle.Authority, 1)
	c.door.Trail = long
	a, s, err := c.join(t, Joining{Token: c.token(t, RoleNode), Key: NewKey(), Now: at(0)})
	if err != nil || s.err != nil {
		t.Fatal(err, s.err)
	}
	if got := must[[]byte](t)(a.Trail.Marshal()); !bytes.Equal(got, data) {
		t.Error("who joins gets another trail")
	}
}

// A node that knows an older CA than the one it believes is led from there, and one whose message
// is of before there were trails is answered as before.
func TestReturnFromBefore(t *testing.T) {
	r := newRotated(t, 2)
	beside := must[*Authority](t)(r.first.Authority.Next(noon()))
	b, s, err := r.comeBack(t, Returning{Key: testKey(7), Known: []*Authority{beside, r.first.Authority.Public()}, Now: at(0), Believed: believeAll})
	if err != nil || s.err != nil || b.Authority.Compare(r.bundle.Authority) != 0 {
		t.Errorf("got %v, %v, %v", b, err, s.err)
	}
	pin := r.first.Authority.Pin()
	old := wireReturn{Version: 1, Key: make([]byte, KeySize), Pin: pin[:]}
	if known := must[wireReturn](t)(parseReturn(must[[]byte](t)(json.Marshal(old)))).known(); len(known) != 1 || known[0] != pin {
		t.Errorf("an old request knows %v", known)
	}
	who := Returning{Known: []*Authority{r.first.Authority.Public(), beside}}
	if who.beginning(nil).Pin() != pin {
		t.Error("an old answer begins elsewhere than at the CA that was asked from")
	}
}

func FuzzTrail(f *testing.F) {
	all, successions := line(f, 2)
	f.Add(must[[]byte](f)(must[Trail](f)(Trail{}.Extend(all[0], successions...)).Marshal()))
	f.Add([]byte(`{"v":1,"first":"","successions":[""]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := ParseTrail(data, all[2])
		if err == nil && len(data) > 0 && got.End().Pin() != all[2].Pin() {
			t.Fatalf("it leads to %v", got.End())
		}
	})
}
