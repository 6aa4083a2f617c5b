package e2e

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/space"
)

// lookUp asks the name server in a namespace. It gives addresses, sorted, or the answer's code.
func lookUp(where *space.Space, network, name string, qtype uint16) (found []string, err error) {
	m := (&dns.Msg{}).SetQuestion(name+".", qtype)
	err = where.Do(func() error {
		answer, _, err := (&dns.Client{Net: network, Timeout: time.Second}).Exchange(m, "127.0.0.11:53")
		if err != nil {
			return err
		}
		for _, rr := range answer.Answer {
			switch rr := rr.(type) {
			case *dns.A:
				found = append(found, rr.A.String())
			case *dns.AAAA:
				found = append(found, rr.AAAA.String())
			case *dns.PTR:
				found = append(found, rr.Ptr)
			}
		}
		if len(found) == 0 {
			found = []string{dns.RcodeToString[answer.Rcode]}
		}
		return nil
	})
	slices.Sort(found)
	return found, err
}

// testNames asks for names in the namespaces of endpoints.
func testNames(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	two, three, api := c.Endpoint("web.2"), c.Endpoint("web.3"), c.Endpoint("api.3")
	all := func(f cluster.Family) []string {
		list := []string{two.On("blue", f).String(), three.On("blue", f).String()}
		slices.Sort(list)
		return list
	}
	reverse, err := dns.ReverseAddr(three.On("blue", cluster.IPv6).String())
	if err != nil {
		t.Fatal(err)
	}
	reverse = strings.TrimSuffix(reverse, ".")
	for _, tt := range []struct {
		from  *cluster.Endpoint
		name  string
		qtype uint16
		want  []string
	}{
		{two, "tasks.web", dns.TypeA, all(cluster.IPv4)},
		{three, "tasks.web", dns.TypeAAAA, all(cluster.IPv6)},
		{two, "web.3", dns.TypeA, []string{three.On("blue", cluster.IPv4).String()}},
		{two, "WEB.2.Blue", dns.TypeAAAA, []string{two.On("blue", cluster.IPv6).String()}},
		{two, reverse, dns.TypePTR, []string{"web.3.blue."}},
		{api, "api.3", dns.TypeA, []string{api.On("green", cluster.IPv4).String()}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got, err := lookUp(tt.from.Space, network, tt.name, tt.qtype); err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("%s asks for %s by %s: %v, %v; want %v", tt.from.Name, tt.name, network, got, err, tt.want)
			}
		}
	}
	for _, name := range []string{"web.3", "tasks.web", "web.3.blue"} {
		if got, err := lookUp(api.Space, "udp", name, dns.TypeA); err == nil && slices.Contains(got, three.On("blue", cluster.IPv4).String()) {
			t.Errorf("api.3 is on another network and hears %v of %s", got, name)
		}
	}
	testNamesRestart(t, c)
	testResolvConf(t, c)
}

// testNamesRestart kills the agent of n2: names are gone with it, and back at once.
func testNamesRestart(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	n2, two := c.Node("n2"), c.Endpoint("web.2")
	want := []string{c.Endpoint("web.3").On("blue", cluster.IPv4).String()}
	if err := n2.KillAgent(); err != nil {
		t.Fatal(err)
	}
	if got, err := lookUp(two.Space, "udp", "web.3", dns.TypeA); err == nil {
		t.Errorf("without an agent the answer is %v", got)
	}
	began, restarted := time.Now(), make(chan error, 1)
	go func() { restarted <- n2.RestartAgent(t.Context()) }()
	const limit = 5 * time.Second // 1 s where the machine is not shared with other tests
	for {
		got, err := lookUp(two.Space, "udp", "web.3", dns.TypeA)
		if err == nil && slices.Equal(got, want) {
			break
		}
		if time.Since(began) > limit {
			t.Errorf("names are not back %s after the agent was started: %v, %v", limit, got, err)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("names were back after %s", time.Since(began).Round(time.Millisecond))
	if err := <-restarted; err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// testResolvConf has a program that knows nothing of sluice find an endpoint by its name.
func testResolvConf(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if _, err := os.Stat("/etc/resolv.conf"); errors.Is(err, fs.ErrNotExist) {
		t.Log("this host has no resolv.conf that one could lie over")
		return
	}
	r, err := c.Node("n2").Try(t.Context(), "run", "--service", "web", "--name", "web.9", "--", "sh", "-c", "cat /etc/resolv.conf; getent ahostsv4 web.3")
	if err != nil || r.Code != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if !strings.Contains(r.Stdout, "nameserver 127.0.0.11\n") || !strings.Contains(r.Stdout, c.Endpoint("web.3").On("blue", cluster.IPv4).String()) {
		t.Errorf("the command has this resolv.conf and finds this: %s", r.Stdout)
	}
}
