package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/internal/kernel"
	"github.com/sluice-mesh/sluice/internal/plan"
	"github.com/sluice-mesh/sluice/mesh"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// askName is what a name gives at a server, sorted: addresses, or the code of the answer.
func askName(t *testing.T, network, server, name string) string {
	t.Helper()
	m := &dns.Msg{}
	m.SetQuestion(name+".", dns.TypeA)
	answer, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).ExchangeContext(context.Background(), m, server)
	if err != nil {
		return "no answer"
	}
	var found []string
	for _, rr := range answer.Answer {
		if a, ok := rr.(*dns.A); ok {
			found = append(found, a.A.String())
		}
	}
	if len(found) == 0 {
		return dns.RcodeToString[answer.Rcode]
	}
	slices.Sort(found)
	return strings.Join(found, " ")
}

// server is where an endpoint's names are told, by UDP and TCP.
func (a *testAgent) server(e *sluicev1.Endpoint) [2]string {
	a.machine.mu.Lock()
	defer a.machine.mu.Unlock()
	return a.machine.asked[plan.EndpointSandbox(e.GetId())]
}

func (a *testAgent) ask(e *sluicev1.Endpoint, name string) string {
	a.tb.Helper()
	t := a.tb.(*testing.T)
	at := a.server(e)
	udp, tcp := askName(t, "udp", at[0], name), askName(t, "tcp", at[1], name)
	if udp != tcp {
		a.tb.Errorf("%s: by UDP %s, by TCP %s", name, udp, tcp)
	}
	return udp
}

// on makes a service on networks.
func (a *testAgent) on(name string, networks ...string) {
	a.tb.Helper()
	if _, err := a.services.CreateService(a.tb.Context(), &sluicev1.CreateServiceRequest{Name: name, Networks: networks}); err != nil {
		a.tb.Fatal(err)
	}
}

func (a *testAgent) network(name string) {
	a.tb.Helper()
	if _, err := a.networks.CreateNetwork(a.tb.Context(), &sluicev1.CreateNetworkRequest{Name: name}); err != nil {
		a.tb.Fatal(err)
	}
}

func (a *testAgent) detach(name string) {
	a.tb.Helper()
	if _, err := a.endpoints.DetachEndpoint(a.tb.Context(), &sluicev1.DetachEndpointRequest{Endpoint: name}); err != nil {
		a.tb.Fatal(err)
	}
}

// pair is a service web of two endpoints on network back.
func pair(t *testing.T, a *testAgent) (first, second *sluicev1.Endpoint) {
	t.Helper()
	a.network("back")
	a.on("web", "back")
	return a.attachTo("web", "web.1"), a.attachTo("web", "web.2")
}

func TestNamesFollowEndpoints(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	first, second := pair(t, a)
	one, two := a.ask(first, "web.1"), a.ask(first, "web.2")
	if one == two || !netip.MustParseAddr(one).Is4() || !netip.MustParseAddr(two).Is4() {
		t.Fatalf("web.1 has %s, web.2 has %s, as soon as they are attached", one, two)
	}
	both := []string{one, two}
	slices.Sort(both)
	if got := a.ask(second, "tasks.web"); got != strings.Join(both, " ") {
		t.Errorf("tasks.web is %s, want %s", got, both)
	}
	a.network("other")
	a.on("lone", "other")
	lone := a.attachTo("lone", "lone.1")
	for _, name := range []string{"web", "tasks.web", "web.1", "web.1.back"} {
		if got := a.ask(lone, name); got != "SERVFAIL" { // nobody outside can be asked
			t.Errorf("who is on another network hears %s of %s", got, name)
		}
	}
	a.detach("web.2")
	if got := a.ask(first, "tasks.web"); got != one {
		t.Errorf("tasks.web is %s after web.2 went", got)
	}
	if got := a.ask(first, "web.2"); got != "SERVFAIL" {
		t.Errorf("web.2 is %s after it went", got)
	}
	if got := a.ask(second, "web.1"); got != "no answer" {
		t.Errorf("the server of an endpoint that went says %s", got)
	}
}

// After a restart the first answer does not wait for the kernel to be looked at.
func TestNamesComeBackAtOnce(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	first, _ := pair(t, a)
	want := a.ask(first, "tasks.web")
	a.stop()
	if got := a.ask(first, "tasks.web"); got != "no answer" {
		t.Errorf("an agent that ended says %s", got)
	}
	release := a.machine.holdUp()
	defer release()
	a.start()
	if got := a.ask(first, "tasks.web"); got != want {
		t.Errorf("after a restart tasks.web is %s, was %s", got, want)
	}
	release()
}

func TestNamesThatCannotBeServed(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.machine.setDeaf(&kernel.Refusal{Reason: kernel.LoopbackDown, Why: "lo is down", Do: "set it up"})
	first, _ := pair(t, a) // which can be used all the same
	find := func() string {
		for _, p := range a.status().GetProblems() {
			if p.GetObject() == "endpoint web.1" {
				return p.GetReason()
			}
		}
		return ""
	}
	if got := find(); got != string(kernel.LoopbackDown) {
		t.Errorf("status has %q", got)
	}
	a.machine.setDeaf(nil)
	eventually(t, "names are served", func() bool { return a.server(first)[0] != "" && find() == "" })
	if got := a.ask(first, "web.1"); netip.MustParseAddr(got).Is6() {
		t.Errorf("web.1 is %s", got)
	}
}

// The endpoints of a service that is asked for names itself keep the port.
func TestNamesLeaveThePort(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	for i, publish := range []string{"5353:53/udp", "5454:54/udp"} {
		name := fmt.Sprintf("s%d", i)
		a.create(name, publish)
		e := a.attachTo(name, name+".1")
		a.machine.mu.Lock()
		_, aside := a.machine.asked["aside "+plan.EndpointSandbox(e.GetId())]
		a.machine.mu.Unlock()
		if aside != (i == 0) {
			t.Errorf("published %s: aside is %v", publish, aside)
		}
	}
}

// An operator sees all names, and nothing that is not the cluster's.
func TestNamesForOperators(t *testing.T) {
	a := newStoppedAgent(t, 1)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.cfg.DNS = netip.MustParseAddrPort(probe.Addr().String())
	a.start() // beside somebody who has the port
	if _, err := a.clusters.Init(t.Context(), &sluicev1.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	taken := func() bool {
		return slices.ContainsFunc(a.status().GetProblems(), func(p *sluicev1.Problem) bool {
			return p.GetObject() == "names at "+a.cfg.DNS.String() && p.GetReason() == string(NamesNotServed)
		})
	}
	if !taken() {
		t.Errorf("status does not say that the port is taken: %v", a.status().GetProblems())
	}
	probe.Close()
	first, _ := pair(t, a)
	at := a.cfg.DNS.String()
	want := a.ask(first, "web.1")
	eventually(t, "an operator hears", func() bool { return askName(t, "udp", at, "web.1") == want && askName(t, "tcp", at, "web.1") == want })
	eventually(t, "status has no problem", func() bool { return !taken() })
	if got := askName(t, "udp", at, "example.com"); got != "REFUSED" {
		t.Errorf("another's name is %s", got)
	}
}

func TestDNSAddressIsRefused(t *testing.T) {
	for _, at := range []string{"0.0.0.0:53", "[::]:53", "224.0.0.1:53", "127.0.0.1:0", "127.0.0.1:7956", "127.0.0.1:4789"} {
		if _, err := (Config{Name: "n", DNS: netip.MustParseAddrPort(at)}).complete(); mesh.ReasonOf(err) != BadConfig {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// upstream is a resolver that answers every question with one address.
func upstream(t *testing.T, at, address string) {
	t.Helper()
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: packets, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := (&dns.Msg{}).SetReply(q)
		rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN A %s", q.Question[0].Name, address))
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
		w.WriteMsg(m)
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { server.Shutdown(); <-ended })
}

// The host's resolvers are followed, and so is what an endpoint's resolv.conf takes from them.
func TestHostResolversAreFollowed(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	host, managed := a.system().resolv.host, managedConf(a.cfg.RunDir)
	before, err := os.Stat(managed)
	if err != nil {
		t.Fatal(err)
	}
	upstream(t, "127.83.1.1:53", "192.0.2.1")
	upstream(t, "127.83.1.2:53", "192.0.2.2")
	first, _ := pair(t, a)
	for i, want := range []string{"192.0.2.1", "192.0.2.2"} {
		text := fmt.Sprintf("nameserver 127.83.1.%d\nsearch net%d.example\n", i+1, i+1)
		if err := os.WriteFile(host, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "upstream "+want+" is asked", func() bool { return a.ask(first, "www.example.com") == want })
		conf, err := os.ReadFile(managed)
		if err != nil || !strings.Contains(string(conf), fmt.Sprintf("nameserver 127.0.0.11\nsearch net%d.example\n", i+1)) {
			t.Errorf("resolv.conf of endpoints: %s, %v", conf, err)
		}
	}
	if after, err := os.Stat(managed); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file is another one, which who has mounted it does not see (%v)", err)
	}
}

// A namespace that "ip netns" has by name gets a resolv.conf there, where nobody wrote one.
func TestNamedNamespacesGetResolvConf(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	a.network("back")
	a.on("web", "back")
	files := a.system().resolv
	conf := func(name string) string { return filepath.Join(files.etc, name, confName) }
	if err := os.MkdirAll(files.named, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		if err := os.Link(a.netns("ns-"+name), filepath.Join(files.named, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(conf("two")), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf("two"), []byte("nameserver 192.0.2.53\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	attach := func(name string) {
		t.Helper()
		if _, err := a.endpoints.AttachEndpoint(t.Context(), &sluicev1.AttachEndpointRequest{
			Service: "web", Name: name, Namespace: &sluicev1.AttachEndpointRequest_Netns{Netns: filepath.Join(files.named, name)},
		}); err != nil {
			t.Fatal(err)
		}
	}
	attach("one")
	attach("two")
	if to, err := os.Readlink(conf("one")); err != nil || to != managedConf(a.cfg.RunDir) {
		t.Errorf("one: %s, %v", to, err)
	}
	if text, err := os.ReadFile(conf("two")); err != nil || string(text) != "nameserver 192.0.2.53\n" {
		t.Errorf("what somebody wrote is now %s, %v", text, err)
	}
	if _, err := os.Lstat(conf("three")); !os.IsNotExist(err) {
		t.Errorf("a namespace that is no endpoint has one: %v", err)
	}
	a.stop()
	a.start()
	if _, err := os.Readlink(conf("one")); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	a.detach("two")
	if _, err := os.Readlink(conf("one")); err != nil {
		t.Errorf("after another went: %v", err)
	}
	a.detach("one")
	if _, err := os.Lstat(filepath.Dir(conf("one"))); !os.IsNotExist(err) {
		t.Errorf("the link or its directory stays: %v", err)
	}
	if _, err := os.Stat(conf("two")); err != nil {
		t.Errorf("what somebody wrote is gone: %v", err)
	}
}

// A node that is gone takes its endpoints out of their service's names, and comes back with them:
// no record changes by that.
func TestNamesLeaveOutGoneNode(t *testing.T) {
	agents, _ := newTestCluster(t, 2)
	a, b := agents[0], agents[1]
	a.network("back")
	web := &sluicev1.CreateServiceRequest{Name: "web", Networks: []string{"back"}, Publish: []string{"8080:80"}, EndpointMode: string(mesh.RoundRobinDNS)}
	if _, err := a.services.CreateService(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	first := a.attachTo("web", "web.1")
	eventually(t, "n2 knows web", func() bool {
		_, err := b.services.GetService(t.Context(), &sluicev1.GetServiceRequest{Service: "web"})
		return err == nil
	})
	addrs := map[string]netip.Addr{}
	for _, at := range b.attachTo("web", "web.2").GetAttachments() {
		addrs[at.GetNetwork()] = netip.MustParseAddr(at.GetAddresses()[0])
	}
	block, err := addrs["ingress"].Prefix(27)
	if err != nil {
		t.Fatal(err)
	}
	told := func() string { return askName(t, "udp", a.server(first)[0], "web") }
	own := told()
	second := addrs["back"].String()
	both := []string{own, second}
	slices.Sort(both)
	eventually(t, "n1 tells both", func() bool { return told() == strings.Join(both, " ") })
	b.stop()
	a.machine.echo.setMute(block.Addr()) // n2's sandbox
	eventually(t, "n1 tells its own alone", func() bool { return told() == own })
	if got := a.ask(first, "web.2"); got != second {
		t.Errorf("web.2 is %s, want %s", got, second)
	}
	a.machine.echo.setMute()
	eventually(t, "n1 tells both again", func() bool { return told() == strings.Join(both, " ") })
}

// A link that an agent left which ended with its machine goes with the first look: who makes a
// namespace of that name later is not to ask a name server that is not there.
func TestStaleLinkGoes(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	files := a.system().resolv
	a.stop()
	dir := filepath.Join(files.etc, "work")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(managedConf(a.cfg.RunDir), filepath.Join(dir, confName)); err != nil {
		t.Fatal(err)
	}
	a.start()
	if at, err := os.Readlink(filepath.Join(dir, confName)); err == nil {
		t.Errorf("the link to %s is still there", at)
	}
}

// What the name servers were asked is in the status.
func TestNamesAreCounted(t *testing.T) {
	agents, _ := newTestCluster(t, 1)
	a := agents[0]
	first, _ := pair(t, a)
	if _, err := a.networks.CreateNetwork(t.Context(), &sluicev1.CreateNetworkRequest{Name: "cave", Driver: "bridge", Internal: true}); err != nil {
		t.Fatal(err)
	}
	a.on("deep", "cave")
	deep := a.attachTo("deep", "deep.1")
	upstream(t, "127.83.2.1:53", "192.0.2.1")
	if err := os.WriteFile(a.system().resolv.host, []byte("nameserver 127.83.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the upstream is asked", func() bool { return a.ask(first, "www.example.com") == "192.0.2.1" })
	// Each name is asked for by UDP and by TCP.
	for _, tt := range []struct {
		who        *sluicev1.Endpoint
		name, want string
	}{
		{first, "web.1", "questions 2"},
		{first, "mail.example.com", "questions 2, cached 1, forwarded 1"},
		{deep, "mail.example.com", "questions 2, refused 2"},
	} {
		before := a.status().GetNames()
		a.ask(tt.who, tt.name)
		if got := countedSince(before, a.status().GetNames()); got != tt.want {
			t.Errorf("%s asks for %s: %s, want %s", tt.who.GetName(), tt.name, got, tt.want)
		}
	}
}

// countedSince are the counts that grew.
func countedSince(before, after *sluicev1.NameCounts) string {
	var grew []string
	fields := after.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if n := after.ProtoReflect().Get(f).Uint() - before.ProtoReflect().Get(f).Uint(); n > 0 {
			grew = append(grew, fmt.Sprintf("%s %d", f.Name(), n))
		}
	}
	return strings.Join(grew, ", ")
}
