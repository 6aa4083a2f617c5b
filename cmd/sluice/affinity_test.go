package main

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

func TestAffinityFlag(t *testing.T) {
	for text, want := range map[string]struct {
		long  time.Duration
		shown string
	}{
		"client-ip":           {3 * time.Hour, "client-ip=3h"},
		"client-ip=3h":        {3 * time.Hour, "client-ip=3h"},
		"client-ip=90m":       {90 * time.Minute, "client-ip=1h30m"},
		"client-ip=10m":       {10 * time.Minute, "client-ip=10m"},
		"client-ip=30s":       {30 * time.Second, "client-ip=30s"},
		"client-ip=1h0m1s":    {time.Hour + time.Second, "client-ip=1h0m1s"},
		"client-ip=-1s":       {-time.Second, "client-ip=-1s"}, // the agent says no
		"client-ip=86400000s": {86400000 * time.Second, "client-ip=24000h"},
		"none":                {0, "none"},
	} {
		var got *durationpb.Duration
		flag := affinityFlag{&got}
		if flag.String() != "" {
			t.Errorf("before it is set the flag is %q", flag)
		}
		if err := flag.Set(text); err != nil || got.AsDuration() != want.long || flag.String() != want.shown {
			t.Errorf("%s: %v %v, shown as %s", text, got.AsDuration(), err, flag)
		}
	}
	for _, text := range []string{"", "cookie", "client-ip=", "client-ip=x", "client-ip=3", "client-ip=0s", "none=3h"} {
		var got *durationpb.Duration
		if err := (affinityFlag{&got}).Set(text); err == nil || got != nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}
