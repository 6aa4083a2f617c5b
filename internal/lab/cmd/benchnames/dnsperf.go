package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// load is what one dnsperf asks.
type load struct {
	proto     string // udp, tcp
	file      string // of questions, which are asked again and again
	perSecond int
	seconds   int
}

// result is what became of the questions; times are until the answer.
type result struct {
	asked, lost   int
	p50, p99, max time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%d\t%d\t%s\t%s\t%s", r.asked, r.lost, r.p50, r.p99, r.max)
}

// questions writes the files of local names and of names of the world, which all differ.
func questions(dir string) (local, world string, err error) {
	var near, far strings.Builder
	for i := range names {
		fmt.Fprintf(&near, "web%d A\nweb%d AAAA\n", i, i)
	}
	for i := range 10000 {
		fmt.Fprintf(&far, "n%d.example A\n", i)
	}
	local, world = filepath.Join(dir, "local.questions"), filepath.Join(dir, "world.questions")
	return local, world, errors.Join(os.WriteFile(local, []byte(near.String()), 0o600), os.WriteFile(world, []byte(far.String()), 0o600))
}

var (
	// An answer, as dnsperf -v says it: "> NOERROR web0 A 0.000123".
	answered  = regexp.MustCompile(`(?m)^> NOERROR .* (\d+\.\d+)$`)
	sentLine  = regexp.MustCompile(`Queries sent: +(\d+)`)
	completed = regexp.MustCompile(`Queries completed: +(\d+)`)
)

// ask runs dnsperf in an endpoint's namespace. An answer other than NOERROR is an error.
func ask(ctx context.Context, in *space.Space, l load) (result, error) {
	text, err := in.Run(ctx, "dnsperf", "-v", "-s", "127.0.0.11", "-m", l.proto, "-c", "4", "-t", "5", "-d", l.file, "-Q", strconv.Itoa(l.perSecond), "-l", strconv.Itoa(l.seconds))
	if err != nil {
		return result{}, err
	}
	sent, came := sentLine.FindStringSubmatch(text), completed.FindStringSubmatch(text)
	if sent == nil || came == nil {
		return result{}, fmt.Errorf("dnsperf printed no counts: %s", text)
	}
	asked, errSent := strconv.Atoi(sent[1])
	done, errDone := strconv.Atoi(came[1])
	if err := errors.Join(errSent, errDone); err != nil {
		return result{}, err
	}
	var times []time.Duration
	for _, found := range answered.FindAllStringSubmatch(text, -1) {
		seconds, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			return result{}, err
		}
		times = append(times, time.Duration(seconds*1e6)*time.Microsecond)
	}
	if len(times) != done || done == 0 {
		return result{}, fmt.Errorf("of %d answers %d were NOERROR", done, len(times))
	}
	slices.Sort(times)
	return result{asked: asked, lost: asked - done, p50: times[len(times)/2], p99: times[len(times)*99/100], max: times[len(times)-1]}, nil
}

// beside does something while a load goes on, whose answers nobody looks at.
func beside(ctx context.Context, in *space.Space, l load, do func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = in.Run(ctx, "dnsperf", "-s", "127.0.0.11", "-m", l.proto, "-q", "1000", "-d", l.file, "-Q", strconv.Itoa(l.perSecond), "-l", strconv.Itoa(l.seconds))
	}()
	err := do()
	cancel()
	<-ended
	return err
}
