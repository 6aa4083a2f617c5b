package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
	"github.com/sluice-mesh/sluice/internal/plan"
	sluicev1 "github.com/sluice-mesh/sluice/proto/sluice/v1"
)

// explanation is what sluice explain must say, on the node that lost something.
type explanation struct {
	mutation
	on     *cluster.Node
	target string
	hop    string // the verdict begins "broken at hop HOP,"; "": the packet does not meet it
	says   string
}

// asked is how many explanations are asked for at once: enough that some are still to
// come when a program has taken something away.
const asked = 16

// testExplain takes something away from living agents and wants explain to name the
// hop. An agent repairs within moments of hearing. But explanations and rounds have the
// machine in turn, in the order in which they asked for it: while explanations wait, the
// repair waits behind them.
func testExplain(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	for _, e := range explanations(t, c) {
		t.Run(e.name, func(t *testing.T) {
			const tries = 3 // where the machine was so slow to take it away that all had been answered
			for range tries {
				answers := explainDuring(t, e)
				if err := c.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if e.judge(t, answers) {
					return
				}
			}
			t.Errorf("nobody was told that %s is gone", e.name)
		})
	}
}

// explainDuring takes it away while explanations wait for each other, and gives all.
func explainDuring(t *testing.T, e explanation) []*sluicev1.ExplainResponse {
	t.Helper()
	conn, err := grpc.NewClient(e.on.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := sluicev1.NewStatusServiceClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		resp *sluicev1.ExplainResponse
		err  error
	}
	results := make(chan result, asked)
	for range asked {
		go func() {
			resp, err := client.Explain(ctx, &sluicev1.ExplainRequest{Target: e.target})
			results <- result{resp, err}
		}()
	}
	first := <-results
	for _, run := range e.run {
		if _, err := e.in.Run(t.Context(), run[0], run[1:]...); err != nil {
			t.Error(err)
		}
	}
	answers := []*sluicev1.ExplainResponse{first.resp}
	for r := range results {
		if r.err != nil {
			t.Errorf("explain %s: %v", e.target, r.err)
		}
		if answers = append(answers, r.resp); len(answers) == asked {
			return answers
		}
	}
	return answers
}

// judge wants each answer to say that all is well or what is missing, and tells
// whether one did say what is missing.
func (e explanation) judge(t *testing.T, answers []*sluicev1.ExplainResponse) bool {
	t.Helper()
	well, told := 0, map[string]int{}
	for _, a := range answers {
		v := a.GetVerdict()
		switch {
		case e.hop == "" && a.GetOtherDifferences() > 0:
			told[fmt.Sprintf("%d more that this does not meet", a.GetOtherDifferences())]++
		case strings.HasPrefix(v, "broken"):
			told[v]++
			begin := fmt.Sprintf("broken at hop %s, ", e.hop)
			if e.hop == "" || !strings.HasPrefix(v, begin) || !strings.Contains(v, " of "+e.on.Name) || !strings.Contains(v, e.says) {
				t.Errorf("explain says %q, want %q and %q", v, begin, e.says)
			}
		default:
			well++
		}
	}
	t.Logf("%d answers: all is well; others: %v", well, told)
	return len(told) > 0
}

// explanations are of the mutations that testMutations shows to matter, and two more.
func explanations(t *testing.T, c *cluster.Cluster) []explanation {
	t.Helper()
	n1, n2 := c.Node("n1"), c.Node("n2")
	at := func(n *cluster.Node) string { return netip.AddrPortFrom(n.V4, cluster.Published).String() }
	by1, by2, own := at(n1), at(n2), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), cluster.Published).String()
	of := map[string]explanation{
		"capture rule":                       {on: n1, target: by1, hop: "1", says: "table inet"},
		"captured port":                      {on: n1, target: by1, hop: "1", says: "published"},
		"masquerade of the node's own calls": {on: n1, target: own, hop: "1", says: "table inet"},
		"mark map entry":                     {on: n1, target: by1, hop: "3", says: "services4"},
		"backend":                            {on: n1, target: by1, hop: "4", says: backendWord(c)},
		"FDB entry on the way in":            {on: n1, target: by1, hop: "5", says: "fdb"},
		"door":                               {on: n2, target: by2, hop: "5", says: plan.DoorOut},
		"FDB entry of a user network":        {on: n2, target: by1},
		"zone map entry":                     {on: n2, target: by1, hop: "7", says: "node_zones"},
		"reply mark of a zone":               {on: n2, target: by1, hop: "9", says: "zone_marks"},
		"egress map entry":                   {on: n2, target: by1, hop: "9", says: "node_macs"},
		"egress map entry of the own node":   {on: n2, target: by2, hop: "9", says: "own_macs"},
		"FDB entry on the way back":          {on: n2, target: by1, hop: "9", says: "fdb"},
		"blocks a peer may send from":        {on: n1, target: by1, hop: "10", says: "blocks4"},
		"isolation set entry":                {on: n2, target: by1, hop: "7", says: "targets4"},
		"isolation set's bound":              {on: n2, target: by1},
		"isolation's drop":                   {on: n2, target: by1, hop: "7", says: "table inet"},
	}
	list := []explanation{
		{
			mutation{name: "block route", in: n1.Ingress, run: []command{{"ip", "-4", "route", "flush", "proto", "83", "dev", plan.Tunnel}}},
			n1, by1, "5", "route",
		},
		{
			mutation{name: "uplink that is down", in: n1.Space, run: []command{{"ip", "link", "set", plan.UplinkHost, "down"}}},
			n1, by1, "2", plan.UplinkHost,
		},
	}
	for _, m := range mutations(t, c) {
		e, known := of[m.name]
		if !known {
			t.Errorf("what should explain say without %s?", m.name)
			continue
		}
		e.mutation = m
		list = append(list, e)
	}
	return list
}

// backendWord is what the balancer keeps an endpoint in.
func backendWord(c *cluster.Cluster) string {
	if c.Balancer == "nft" {
		return "slots4"
	}
	return "backend"
}
