package main

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// everyVerb lists the command paths that are ours and hold no others.
func everyVerb() []string {
	var paths []string
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() {
			paths = append(paths, strings.TrimPrefix(cmd.CommandPath(), "sluice "))
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newApp().root())
	return paths
}

// askingLines holds a correct command line of every verb that asks the agent.
func askingLines() map[string]string {
	return map[string]string{
		"init":                "init",
		"join":                "join 192.0.2.1 --token secret",
		"leave":               "leave",
		"token create":        "token create --ttl 1h",
		"token ls":            "token ls",
		"token rm":            "token rm 0123456789abcdef",
		"key rotate":          "key rotate",
		"key ls":              "key ls",
		"node ls":             "node ls",
		"node rm":             "node rm n3",
		"network create":      "network create back",
		"network ls":          "network ls",
		"network update":      "network update back --subnet 10.1.0.0/20",
		"network inspect":     "network inspect back",
		"network rm":          "network rm back",
		"service create":      "service create web --publish 8080:80",
		"service update":      "service update web --scheduler mh",
		"service ls":          "service ls",
		"service inspect":     "service inspect web",
		"service rm":          "service rm web",
		"endpoint attach":     "endpoint attach --service web --pid 1",
		"endpoint connect":    "endpoint connect web.1 back",
		"endpoint disconnect": "endpoint disconnect web.1 back",
		"endpoint inspect":    "endpoint inspect web.1",
		"endpoint drain":      "endpoint drain web.1",
		"endpoint detach":     "endpoint detach web.1",
		"endpoint ls":         "endpoint ls",
		"run":                 "run --service web -- ./server --flag",
		"status":              "status",
		"plan":                "plan --diff",
		"explain":             "explain n1:8080",
		"events":              "events",
	}
}

// eachAsking runs every verb that asks, and returns what each said on stderr.
func eachAsking(t *testing.T, host string) string {
	t.Helper()
	var text strings.Builder
	lines := askingLines()
	for _, verb := range everyVerb() {
		line, asks := lines[verb]
		if !asks && !slices.Contains([]string{"agent", "doctor", "login", "logout", "reset", "man", "version"}, verb) {
			t.Errorf("%s: no line to test it with", verb)
		}
		if !asks {
			continue
		}
		a := newApp()
		a.workloads = &fakeWorkloads{}
		got := sluice(t, a, append([]string{"--host", host}, strings.Fields(line)...)...)
		if got.status != 1 || got.stdout != "" {
			t.Errorf("%s: exit status %d, stdout %q", line, got.status, got.stdout)
		}
		text.WriteString("$ sluice " + line + "\n" + got.stderr)
	}
	return text.String()
}

func TestRefused(t *testing.T) {
	answers := map[string]any{}
	for _, method := range apiMethods() {
		answers[method] = refusal(t, codes.FailedPrecondition, "NotInCluster", "this node is in no cluster",
			"make one with \"sluice init\"")
	}
	golden.Equal(t, eachAsking(t, startAgent(t, answers).host))
}

func TestNoAgent(t *testing.T) {
	golden.Equal(t, eachAsking(t, "unix:///nonexistent/sluice.sock"))
}

// apiMethods lists the methods of the API.
func apiMethods() []string {
	var names []string
	for _, file := range []protoreflect.FileDescriptor{
		sluicev1.File_sluice_v1_cluster_proto, sluicev1.File_sluice_v1_network_proto,
		sluicev1.File_sluice_v1_service_proto, sluicev1.File_sluice_v1_status_proto,
		sluicev1.File_sluice_v1_events_proto,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				names = append(names, string(methods.Get(j).Name()))
			}
		}
	}
	return names
}

func TestWrongUsage(t *testing.T) {
	var text strings.Builder
	for _, line := range []string{
		"", "--bad", "netwrk ls", "xyz", "help xyz", "completion xyz", "node", "network creat x",
		"agent extra", "agent --api 7957", "login", "login 192.0.2.1", "login a/b --token x", "logout", "status --host tcp://", "status --host tcp://a:b", "agent --advertise nowhere", "agent --gossip-port 70000", "agent --balancer lvs",
		"init extra", "join", "join 192.0.2.1", "node ls extra", "status extra", "status -o xml", "status --host localhost",
		"status --host unix://relative", "network create", "network create a b", "network update back", "network create a --driver macvlan", "network create a --direct-routing maybe", "network create a --mtu -1",
		"service inspect", "service create web --replicas 3", "service create web --affinity cookie", "service create web --affinity client-ip=", "service create web --affinity client-ip=0s", "service update web --affinity=", "service rm", "service update", "service update web", "endpoint drain", "endpoint attach --service web",
		"endpoint attach --service web --netns /a --pid 1", "endpoint attach --pid 1",
		"endpoint attach --service web --pid 1 --weight 0", "endpoint attach --service web --pid 1 --weight 65536",
		"endpoint attach --service web --pid 1 --network ,ip=10.0.0.1", "endpoint attach --service web --pid 1 --network back,ip", "endpoint attach --service web --pid 1 --network back,",
		"endpoint attach --service web --pid 1 --network back,colour=red", "endpoint attach --service web --pid 1 --network back,gw-priority=high",
		"endpoint connect web.1", "endpoint connect web.1 back more", "endpoint disconnect web.1", "endpoint inspect", "network inspect",
		"run --service web", "run -- ./server", "run --service web --weight 0 -- ./server", "plan extra", "reset extra", "man", "version -o",
	} {
		got := sluice(t, newApp(), strings.Fields(line)...)
		if got.status != 2 || got.stdout != "" {
			t.Errorf("%s: exit status %d, stdout %q", line, got.status, got.stdout)
		}
		text.WriteString("$ sluice " + line + "\n" + got.stderr)
	}
	golden.Equal(t, text.String())
}

func TestHostFromEnvironment(t *testing.T) {
	f := startAgent(t, map[string]any{"RemoveNetwork": &sluicev1.RemoveNetworkResponse{}})
	t.Setenv("SLUICE_HOST", f.host)
	if got := sluice(t, newApp(), "network", "rm", "back"); got.status != 0 {
		t.Errorf("got %+v", got)
	}
	if got := sluice(t, newApp(), "network", "rm", "back", "--host", "unix:///nonexistent"); got.status != 1 {
		t.Errorf("--host does not win: %+v", got)
	}
}

// listen accepts on a socket and hands every connection to do.
func listen(t *testing.T, do func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			do(conn)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return "unix://" + path
}

func TestStuckAgent(t *testing.T) {
	host := listen(t, func(net.Conn) {})
	a := newApp()
	a.patience = 100 * time.Millisecond
	got := sluice(t, a, "--host", host, "status")
	want := "sluice: show the status: the agent did not answer within 100ms: " +
		"look at its log for what it waits for; it may still do what was asked\n"
	if got.status != 1 || got.stderr != want {
		t.Errorf("got %+v", got)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	host := listen(t, func(net.Conn) { cancel() })
	var stdout, stderr strings.Builder
	code := newApp().run(ctx, []string{"--host", host, "network", "rm", "back"}, strings.NewReader(""), &stdout, &stderr)
	want := "sluice: remove network \"back\": interrupted: the agent may have done it all the same, see \"sluice status\"\n"
	if code != 1 || stderr.String() != want {
		t.Errorf("exit status %d, stderr %q", code, stderr.String())
	}
}

func TestAgentGoesAway(t *testing.T) {
	host := listen(t, func(c net.Conn) { _ = c.Close() })
	got := sluice(t, newApp(), "--host", host, "status")
	want := "sluice: show the status: the agent at " + host + " went away before it answered: look at its log for why it ended\n"
	if got.status != 1 || got.stderr != want {
		t.Errorf("got %+v", got)
	}
}

// The plan of a large cluster has more than gRPC's usual limit, 4 MiB.
func TestLargeAnswer(t *testing.T) {
	text := strings.Repeat("nft element published tcp . 8080\n", 150_000)
	f := startAgent(t, map[string]any{"GetPlan": &sluicev1.GetPlanResponse{Text: text}})
	if got := f.sluice(t, "plan"); got.status != 0 || got.stdout != text {
		t.Errorf("exit status %d, %d bytes, stderr %q", got.status, len(got.stdout), got.stderr)
	}
}

func TestExplain(t *testing.T) {
	c := newApp().to("ask")
	for _, row := range []struct {
		err    error
		dialed error
		want   string
	}{
		{
			status.Error(codes.Unavailable, ""), syscall.EACCES,
			"ask: no permission to speak to the agent at unix:///s: run this as root, or as a member of group sluice, which must exist when the agent starts",
		},
		{
			status.Error(codes.Unavailable, ""), syscall.ECONNREFUSED,
			`ask: no agent answers at unix:///s: start it with "sluice agent", or name another with --host`,
		},
		{
			status.Error(codes.Unavailable, ""), syscall.EINVAL,
			"ask: no agent answers at unix:///s: invalid argument: name its socket with --host",
		},
		{
			status.Error(codes.Unimplemented, "unknown method"), nil,
			"ask: the agent is of another version and does not know this call: start it again from this program",
		},
		{status.Error(codes.Internal, "broken"), nil, "ask: broken: look at the agent's log"},
	} {
		if got := c.explain(row.err, &dialer{to: target{path: "/s"}, err: row.dialed}).Error(); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}
