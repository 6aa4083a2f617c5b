package probe_test

import (
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/feature"
	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

// An answer over SCTP is read however late that is: the server has long closed the association by then.
func TestSCTPAnswerWaits(t *testing.T) {
	feature.Need(t, feature.SCTP)
	near, far := link(t)
	server, err := probe.ServeSCTP(far, "far", 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	client := probe.Client{Place: near, Wait: 5 * time.Second}
	for _, late := range []time.Duration{0, 150 * time.Millisecond, time.Second} {
		for _, to := range []string{far4, far6} {
			var asked []*probe.Attempt
			for range 10 {
				ask, err := client.Begin("sctp", at(to, 80))
				if err != nil {
					t.Fatal(err)
				}
				asked = append(asked, ask)
			}
			time.Sleep(late)
			for _, ask := range asked {
				if a, err := ask.Finish(client.Wait); err != nil || a.Name != "far" {
					t.Errorf("%s, read after %v: %q, %v", to, late, a.Name, err)
				}
				if err := ask.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
