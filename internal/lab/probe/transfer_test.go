package probe_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/probe"
)

func TestTransfer(t *testing.T) {
	near, _ := link(t)
	c := probe.Client{Place: near, Wait: 10 * time.Second}
	to, whole := at(far4, probe.TargetPort), probe.Transfer{Size: 1 << 20, Over: 300 * time.Millisecond}
	for name, do := range map[string]func() error{
		"pull": func() error { return c.Pull(to, "far", whole) },
		"push": func() error { return c.Push(to, "far", whole) },
	} {
		began := time.Now()
		if err := do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took < whole.Over {
			t.Errorf("%s took %s, want it spread over %s", name, took, whole.Over)
		}
	}
	if err := c.Pull(to, "near", whole); err == nil {
		t.Error("a server of another name was found")
	}
}

func TestTransferIsCut(t *testing.T) {
	near, far := link(t)
	c := probe.Client{Place: near, Wait: 300 * time.Millisecond}
	ended := make(chan error, 1)
	go func() {
		ended <- c.Pull(at(far4, probe.TargetPort), "far", probe.Transfer{Size: 1 << 20, Over: time.Second})
	}()
	time.Sleep(300 * time.Millisecond)
	if _, err := far.Run(context.Background(), "ip", "link", "set", "eth0", "down"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("a transfer whose link went down ended with %v", err)
	}
}
