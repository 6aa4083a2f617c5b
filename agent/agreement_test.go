package agent

import (
	"testing"
	"time"
)

// Nodes say that they agree, and since when; one that is not heard is named apart.
func TestAgreement(t *testing.T) {
	agents, _ := newTestCluster(t, 3)
	agents[1].create("web", "8080:80")
	for _, a := range agents {
		eventually(t, a.cfg.Name+" agrees with both others", func() bool {
			got := a.status().GetAgreement()
			return got.GetSince() != nil && len(got.GetDiffer())+len(got.GetSilent()) == 0
		})
	}
	since := agents[0].status().GetAgreement().GetSince().AsTime()
	if age := time.Since(since); age < 0 || age > time.Minute {
		t.Errorf("in agreement since %s", since)
	}
	agents[2].stop()
	eventually(t, "n3 is not heard", func() bool {
		got := agents[0].status().GetAgreement()
		return got.GetSince() != nil && len(got.GetSilent()) == 1 && got.GetSilent()[0] == "n3"
	})
	agents[2].start()
	eventually(t, "all three agree again", func() bool {
		got := agents[2].status().GetAgreement()
		return got.GetSince() != nil && len(got.GetDiffer())+len(got.GetSilent()) == 0
	})
}
