package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-mesh/sluice/agent"
	"github.com/sluice-mesh/sluice/internal/lab/golden"
	"github.com/sluice-mesh/sluice/internal/login"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

func healthy() *sluicev1.ExamineResponse {
	return &sluicev1.ExamineResponse{Checks: []*sluicev1.Check{
		{Name: "kernel VXLAN", State: "ok", Seen: "can be used"},
		{Name: "peers", State: "warn", Seen: "1 of 2 do not answer: two since 2026-03-01T12:00:00Z", Do: "look there with sluice doctor"},
	}}
}

func ill() *sluicev1.ExamineResponse {
	resp := healthy()
	resp.Checks = append(resp.Checks, &sluicev1.Check{
		Name: "port gossip tcp", State: "fail", Seen: "7956 is held by \x1b[2J (pid 12)", Do: "stop it, or start all agents with --gossip-port of another number",
	})
	return resp
}

func TestDoctorVerb(t *testing.T) {
	checkForms(t, map[string]any{"Examine": healthy()}, "doctor")
}

func TestDoctorFails(t *testing.T) {
	got := startAgent(t, map[string]any{"Examine": ill()}).sluice(t, "doctor")
	if got.status != 1 || got.stderr != "" {
		t.Errorf("exit status %d, stderr %q", got.status, got.stderr)
	}
	golden.Equal(t, got.stdout)
}

// Where no agent answers, the command looks itself, and knows why.
func TestDoctorAlone(t *testing.T) {
	atHome(t)
	hung := startAgent(t, map[string]any{"Examine": status.Error(codes.Internal, "a bug")})
	for _, c := range []struct {
		host, silent string
		err          error
		status       int
		stderr       string
	}{
		{host: "unix:///nonexistent/s"},
		{host: hung.host, silent: "a bug"},
		{host: "unix:///nonexistent/s", err: errors.New("no such luck"), status: 1, stderr: "sluice: examine this host: no such luck\n"},
		{host: "tcp://192.0.2.1:1", status: 1, stderr: "sluice: examine this host: there is no login here: " + login.Again + "\n"},
	} {
		a := newApp()
		asked := ""
		a.doctor = func(cfg agent.DoctorConfig) (*sluicev1.ExamineResponse, error) {
			asked = fmt.Sprintf("%s %s %s %d %s", cfg.DataDir, cfg.RunDir, cfg.Advertise, cfg.VXLANPort, cfg.Silent)
			if cfg.Address != c.host {
				t.Errorf("asked for %s", cfg.Address)
			}
			return healthy(), c.err
		}
		got := sluice(t, a, "--host", c.host, "doctor", "--data-dir", "/d", "--run-dir", "/r", "--advertise", "192.0.2.1", "--vxlan-port", "4790")
		want := strings.TrimRight("/d /r 192.0.2.1 4790 "+c.silent, " ")
		if strings.HasPrefix(c.host, "tcp") {
			want = ""
		}
		if got.status != c.status || got.stderr != c.stderr || strings.TrimRight(asked, " ") != want {
			t.Errorf("%s: asked %q, got %+v", c.host, asked, got)
		}
	}
}
