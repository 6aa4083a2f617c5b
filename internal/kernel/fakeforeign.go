package kernel

import "github.com/sluice-mesh/sluice/internal/plan"

// Firewall is what another program has done to the host of a Fake: its iptables
// chain FORWARD, of table filter, drops by policy, or lets through.
func (f *Fake) Firewall(family plan.Family, policy Policy) {
	host := f.spaces[plan.HostSandbox]
	for _, t := range host.foreign {
		if t.Family == string(family) {
			t.chains["FORWARD"].drops = policy == Drop
			return
		}
	}
	host.foreign = append(host.foreign, &foreignTable{
		tableRef: tableRef{toolIPTables, string(family), "filter"},
		chains:   map[string]*foreignChain{"FORWARD": {hook: hookForward, drops: policy == Drop}},
	})
}

// Policy is what a chain does with packets that none of its rules decides.
type Policy string

// The policies.
const (
	Accept Policy = "accept"
	Drop   Policy = "drop"
)

func (s *fakeSpace) pass(verb Verb, o Pass) error {
	want := o.passages
	if verb == Delete {
		want = nil
	}
	for _, t := range s.foreign {
		if t.tableRef == o.table {
			for _, e := range t.edits(want) {
				t.carry(e)
			}
		}
	}
	return nil
}
