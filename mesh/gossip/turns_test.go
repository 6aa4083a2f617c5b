package gossip

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-mesh/sluice/mesh"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		var backs []func()
		for i := range turnLimit {
			back := turns.take(t.Context(), nodeID(i), io.NopCloser(nil))
			if back == nil {
				t.Fatalf("turn %d was not given", i)
			}
			backs = append(backs, back)
		}
		began := time.Now()
		if turns.take(t.Context(), nodeID(100), io.NopCloser(nil)) != nil {
			t.Error("one turn too many")
		}
		if waited := time.Since(began); waited != turnTimeout {
			t.Errorf("waited %v", waited)
		}
		// Those that wait are few, and get what is given back.
		var waiting sync.WaitGroup
		var mu sync.Mutex
		given := 0
		for i := range 1000 {
			waiting.Go(func() {
				if back := turns.take(t.Context(), nodeID(1000+i), io.NopCloser(nil)); back != nil {
					mu.Lock()
					given++
					mu.Unlock()
					back()
				}
			})
		}
		synctest.Wait()
		if len(turns.held) != waitLimit {
			t.Errorf("%d hold or wait", len(turns.held))
		}
		backs[0]()
		waiting.Wait()
		if want := waitLimit - turnLimit; given != want {
			t.Errorf("%d of those that waited had their turn, want %d", given, want)
		}
		for _, back := range backs[1:] {
			back()
		}
		if len(turns.held) != 0 || len(turns.free) != 0 {
			t.Errorf("left over: %d, %d", len(turns.held), len(turns.free))
		}
	})
}

// A node whose connection was lost begins anew, and need not wait for the old one.
func TestTurnOfANodeThatCameBack(t *testing.T) {
	turns := newTurns()
	lost, _ := net.Pipe()
	old := turns.take(t.Context(), nodeID(1), lost)
	back := turns.take(t.Context(), nodeID(1), io.NopCloser(nil))
	if back == nil {
		t.Fatal("it has to wait")
	}
	if _, err := lost.Write([]byte{1}); err == nil {
		t.Error("the old connection is open")
	}
	old()
	if turns.held[nodeID(1)] == nil {
		t.Error("the end of the old exchange took the new one's turn")
	}
	back()
}

func TestBusyIsTold(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		peer := newTalk(there)
		peer.expect(frameHello)
		peer.write(frameBusy, nil)
	}()
	if _, err := exchangeOf(newMemory(), here).begin(); mesh.ReasonOf(err) != Busy {
		t.Error(err)
	}
}
