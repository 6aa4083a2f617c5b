package main

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// affinityUsual is what --affinity client-ip means, as in Kubernetes.
const affinityUsual = 3 * time.Hour

// affinityFlag is --affinity: client-ip, client-ip=TIME or none. It implements pflag.Value.
type affinityFlag struct{ value **durationpb.Duration }

// Set reads the flag's value. How long it may be is for the agent to say.
func (f affinityFlag) Set(text string) error {
	kind, long, timed := strings.Cut(text, "=")
	d := affinityUsual
	switch {
	case text == "none":
		d = 0
	case kind != "client-ip":
		return fmt.Errorf("use client-ip, client-ip=3h or none")
	case timed:
		var err error
		if d, err = time.ParseDuration(long); err != nil || d == 0 {
			return fmt.Errorf("%q is no length of time: use client-ip=3h or the like, or none", long)
		}
	}
	*f.value = durationpb.New(d)
	return nil
}

// String is the value as Set takes it; "" where there is none yet.
func (f affinityFlag) String() string {
	if f.value == nil || *f.value == nil {
		return ""
	}
	return affinity(*f.value)
}

// Type is what stands for the value in a help text that does not say.
func (f affinityFlag) Type() string { return "AFFINITY" }

// affinity is a service's in the form that --affinity takes.
func affinity(d *durationpb.Duration) string {
	if d.AsDuration() == 0 {
		return "none"
	}
	text := d.AsDuration().String() // 3h0m0s
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return "client-ip=" + text
}
