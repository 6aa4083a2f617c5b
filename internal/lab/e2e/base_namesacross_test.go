package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/lab/feature"
)

// TestNames is what endpoints of two nodes are told, and when.
func TestNames(t *testing.T) {
	feature.Need(t, feature.Mesh()...)
	b := startBase(t, 2)
	stop := upstream(t, b)
	defer stop()
	b.sluice(t, "network", "create", "front")
	b.sluice(t, "network", "create", "back")
	b.sluice(t, "service", "create", "web", "--network", "front", "--stack", "shop", "--alias", "www")
	b.sluice(t, "service", "create", "diary", "--network", "front", "--stack", "blog", "--alias", "www")
	b.sluice(t, "service", "create", "db", "--network", "back", "--stack", "shop")
	b.sluice(t, "service", "create", "mover", "--network", "front")
	for _, n := range b.Nodes {
		b.attach(t, n, "web", "front")
		b.attach(t, n, "diary", "front")
		b.attach(t, n, "db", "back")
	}
	for _, tt := range []struct {
		name string
		try  func(*testing.T, *base)
	}{
		{"Scopes", testScopesAcross},
		{"Move", testNameMoves},
		{"HalfSent", testHalfSent},
		{"Apart", testNamesApart},
		{"RefusedByKernel", testRefusedByKernel},
		{"Killed", testNamesOfKilled},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.try(t, b) })
	}
}

// fours are the IPv4 addresses of residents, as resolve gives them.
func fours(rs ...*resident) string {
	var list []string
	for _, r := range rs {
		list = append(list, r.addr(cluster.IPv4).String())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// told waits until a name gives what it should over both transports: who is on another node is
// heard of by gossip.
func told(t *testing.T, from *resident, name, want string) {
	t.Helper()
	for _, proto := range protocols() {
		until(t, from.name+" is told "+want+" of "+name+" over "+proto, func() error {
			if got := resolve(from, proto, name, dns.TypeA); got != want {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
}

// testScopesAcross asks from each network and stack, on each node.
func testScopesAcross(t *testing.T, b *base) {
	t.Helper()
	web, diary, db := []*resident{b.of("web"), b.residents["web.2"]}, []*resident{b.of("diary"), b.residents["diary.2"]}, []*resident{b.of("db"), b.residents["db.2"]}
	for i := range b.Nodes {
		told(t, web[i], "tasks.web", fours(web...))
		told(t, web[i], "tasks.www", fours(web...))
		told(t, web[i], "tasks.www.blog", fours(diary...))
		told(t, web[i], "tasks.diary.blog.front", fours(diary...))
		told(t, web[i], web[1-i].name, fours(web[1-i]))
		told(t, diary[i], "tasks.www", fours(diary...))
		told(t, diary[i], "tasks.www.shop", fours(web...))
		told(t, db[i], "tasks.db", fours(db...))
		told(t, db[i], db[1-i].name+".back", fours(db[1-i]))
	}
	// The world, which says that there is no such name, is beside the first node alone.
	for _, name := range []string{"tasks.db", "db.1", "db.shop", "db.2.back"} {
		told(t, web[0], name, "NXDOMAIN")
	}
	for _, name := range []string{"web", "tasks.www", "web.2.shop", "tasks.web.shop.front"} {
		told(t, db[0], name, "NXDOMAIN")
	}
	told(t, diary[0], "tasks.web", "NXDOMAIN") // another stack's
}

// testNameMoves ends an endpoint on one node and begins one of its name on the other.
func testNameMoves(t *testing.T, b *base) {
	t.Helper()
	askers := []*resident{b.of("web"), b.residents["web.2"]}
	before := b.attach(t, b.Nodes[0], "mover", "front")
	for _, from := range askers {
		told(t, from, "mover.1", fours(before))
	}
	b.sluice(t, "endpoint", "detach", "mover.1")
	n2 := b.Nodes[1]
	until(t, "n2 knows that it went", func() error {
		r, err := n2.Try(t.Context(), "endpoint", "inspect", "mover.1")
		if err == nil && r.Code == 0 {
			err = errors.New("it has it still")
		}
		return err
	})
	s, err := b.Space("mover-again")
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, n2, "endpoint", "attach", "--service", "mover", "--name", "mover.1", "--netns", s.Path)
	after := &resident{Space: s, name: "mover.1", network: "front"}
	b.learn(t, after, "mover")
	if fours(after) == fours(before) {
		t.Fatalf("it has %s on either node", fours(after))
	}
	for _, from := range askers {
		told(t, from, "mover.1", fours(after))
		told(t, from, "tasks.mover", fours(after))
	}
}

// testHalfSent leaves questions unfinished: whoever else asks is answered, the same endpoint too.
func testHalfSent(t *testing.T, b *base) {
	t.Helper()
	one := b.of("web")
	question, err := new(dns.Msg).SetQuestion("web.2.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	stream := append([]byte{0, byte(len(question))}, question...)
	for _, half := range []struct {
		proto string
		sent  []byte
	}{
		{"tcp", nil},
		{"tcp", stream[:1]},
		{"tcp", stream[:2]},
		{"tcp", stream[:len(stream)-1]},
		{"udp", question[:1]},
		{"udp", question[:len(question)-1]},
		{"udp", stream},
	} {
		for range 20 {
			var conn net.Conn
			if err := one.Do(func() (err error) { conn, err = net.DialTimeout(half.proto, "127.0.0.11:53", patience); return err }); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(half.sent); err != nil {
				t.Fatal(err)
			}
		}
		for _, from := range []*resident{one, b.of("diary")} {
			for _, proto := range protocols() {
				name, want := "web.2.shop", fours(b.residents["web.2"])
				if got := resolve(from, proto, name, dns.TypeA); got != want {
					t.Errorf("with %d bytes sent over %s, %s asks over %s and is told %s, want %s", len(half.sent), half.proto, from.name, proto, got, want)
				}
			}
		}
	}
}

// testNamesOfKilled kills the agent of one node and starts it again. On the other node no answer
// is missing; here names are back as soon as the agent answers at all.
func testNamesOfKilled(t *testing.T, b *base) {
	t.Helper()
	const limit = time.Second // as an agent that answers its callers takes
	here, there, want := b.of("web"), b.residents["web.2"], fours(b.of("diary"))
	done, over := make(chan struct{}), make(chan int)
	go func() {
		asked := 0
		defer func() { over <- asked }()
		for ; ; asked++ {
			for _, proto := range protocols() {
				if got := resolve(there, proto, "diary.1.blog", dns.TypeA); got != want {
					t.Errorf("on the node that lives, %s over %s: want %s", got, proto, want)
					return
				}
			}
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	for round := range 3 {
		if err := b.node.KillAgent(); err != nil {
			t.Fatal(err)
		}
		if got := resolve(here, "tcp", "diary.1.blog", dns.TypeA); got == want {
			t.Error("names are told without an agent")
		}
		began := time.Now()
		if err := b.node.RestartAgent(t.Context()); err != nil {
			t.Fatal(err)
		}
		answers := time.Now()
		told(t, here, "diary.1.blog", want)
		if took := time.Since(answers); took > limit {
			t.Errorf("round %d: names are back %s after the agent answers, want %s", round, took, limit)
		}
		t.Logf("the agent answers after %s, names are back %s later", answers.Sub(began).Round(time.Millisecond), time.Since(answers).Round(time.Millisecond))
	}
	close(done)
	if asked := <-over; asked == 0 {
		t.Error("nothing was asked on the node that lives")
	}
}
