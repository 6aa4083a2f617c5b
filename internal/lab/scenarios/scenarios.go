// Package scenarios is one suite of stories that both balancers must tell alike.
//
//	testdata/*.txtar --Parse--> Scenario --Run--> Fabric (fake kernel, or namespaces) --> what was seen
//	                                                                                       |
//	                                    docs/EQUIVALENCE.md <--Document-- testdata/observed/COLUMN.txt
//
// A file holds the scenarios of one topic, each below a line "-- NAME --". Lines are
// comments (#), changes, questions, or "differs TEXT":
//
//	service web --publish 8080:80 --scheduler rr    a service; without /tcp or /udp both are published
//	service web --publish 8080:80 --affinity 10m    a client comes to the same endpoint again
//	service web --network blue                      a service on a network, which is made at its first use
//	update web --publish 9090:80 --scheduler wrr    what is given replaces what was
//	rename web www                                  remove web
//	services 30 10000                               s1 to s30, on ports from 10000 on
//	endpoint web a n1 --weight 2                    an endpoint named a on node n1
//	weight a 3     drain a     ready a     leave a
//	gone n2        back n2                          the other nodes judge that n2 is gone
//	held n1 8080   free n1                          a process of n1 has the port
//	settle                                          all nodes carry out the changes so far, as every question does
//
//	dial c1 n2:8080 [tcp|udp|v4|v6]... -> a|b [source c1]   every one of these answers, nobody else, and sees c1
//	dial c1 n2:8080 -> refused
//	hold f1 c1 n2:8080 -> a                         open flows that a answers; ask f1 -> a; ask f1 tcp -> reset
//	dial x web@blue:80 -> a|b source x              an endpoint on network blue dials a service's address there
//	oneport c1 n1,n2,n3:8080 -> a|b source c1       from one client port to several nodes at once
//	same 300 n1,n2,n3:8080                          each of 300 clients reaches one endpoint, through whichever node
//	note 300 n1:8080                                remember whom each reaches
//	moved 300 n1:8080 besides b <= 2%               since then at most so many of those whom b did not have reach another one
//	spread 60 c1 n1:8080 -> a 1/2, b 1/2 within 2   so many new connections, counted; or "within 4 sigma"
//	stick 10 c1 n1:8080                             so many connections of one client reach one endpoint
//
// Who dials: c1 and c2 outside, b1 on a bridge of n1, a node's own process (n1), an
// endpoint. An endpoint's address on a network that is not the mesh's is called by its name, a
// network sandbox's "gateway". What is dialled: a node, its second address (n1/2), localhost, or bridge (n1's
// own address on b1's bridge). Every question is put over TCP and UDP, IPv4 and IPv6,
// where its words do not name one. A line that begins with "nft:" or "ipvs:" is for that balancer alone,
// and the scenario then says in "differs" what the difference is.
package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-mesh/sluice/mesh"
)

// Scenario is one story.
type Scenario struct {
	Topic   string // the file's name without its end
	Name    string
	Differs string // how the balancers differ; "": not at all
	Steps   []Step
}

// Title is "topic: name".
func (s *Scenario) Title() string { return s.Topic + ": " + s.Name }

// Step is one line of a scenario.
type Step struct {
	File string
	Line int
	Text string
	Only mesh.Balancer // "": both

	run func(r *run, s Step)
}

// Where is "file:line".
func (s Step) Where() string { return fmt.Sprintf("%s:%d", s.File, s.Line) }

// Load reads all scenarios of a directory, in the order of files and lines.
func Load(dir string) ([]*Scenario, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var all []*Scenario
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("load scenarios: %w", err)
		}
		some, err := Parse(filepath.Base(f), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Parse reads one file. Its errors name file and line.
func Parse(file, text string) ([]*Scenario, error) {
	var all []*Scenario
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		fail := func(err error) error { return fmt.Errorf("%s:%d: %s: %w", file, number, line, err) }
		if name, ok := heading(line); ok {
			all = append(all, &Scenario{Topic: strings.TrimSuffix(file, ".txtar"), Name: name})
			continue
		}
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if len(all) == 0 {
			return nil, fail(fmt.Errorf(`a scenario begins with "-- NAME --"`))
		}
		now := all[len(all)-1]
		if differs, ok := strings.CutPrefix(line, "differs "); ok {
			now.Differs = strings.TrimSpace(differs)
			continue
		}
		step := Step{File: file, Line: number, Text: line}
		for _, b := range []mesh.Balancer{mesh.BalancerNFT, mesh.BalancerIPVS} {
			if rest, ok := strings.CutPrefix(line, string(b)+":"); ok {
				step.Only, line = b, strings.TrimSpace(rest)
			}
		}
		var err error
		if step.run, err = parseStep(line); err != nil {
			return nil, fail(err)
		}
		now.Steps = append(now.Steps, step)
	}
	return all, whole(file, all)
}

// whole refuses a scenario that asks nothing, and a difference that is not explained.
func whole(file string, all []*Scenario) error {
	seen := map[string]bool{}
	for _, s := range all {
		one := false
		for _, step := range s.Steps {
			one = one || step.Only != ""
		}
		switch {
		case len(s.Steps) == 0:
			return fmt.Errorf("%s: scenario %q has no steps", file, s.Name)
		case seen[s.Name]:
			return fmt.Errorf("%s: two scenarios are named %q", file, s.Name)
		case one != (s.Differs != ""):
			return fmt.Errorf(`%s: scenario %q: lines for one balancer and "differs TEXT" go together`, file, s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}

func heading(line string) (string, bool) {
	inner, ok := strings.CutPrefix(line, "-- ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(inner, " --")
}
