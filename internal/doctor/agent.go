package doctor

import (
	"fmt"
	"time"
)

const (
	clockOff = 5 * time.Second // more than records are usually under way
	clockSet = 2025            // the year before which no clock was set
)

// clock judges by what other nodes wrote: nobody's clock is asked.
func clock(f *Facts) []Check {
	const name = "clock"
	const do = "set the clock of this node and of the others by NTP: timedatectl set-ntp true"
	now := f.Now.UTC().Format(time.RFC3339)
	switch a := f.Agent; {
	case f.Now.Year() < clockSet:
		return []Check{fail(name, do, "%s: it was not set since the host started", now)}
	case a.Ahead > clockOff:
		return []Check{warn(name, do, "%s; the newest record, of node %s, is %s ahead: one of the two clocks is wrong", now, a.AheadWriter, a.Ahead.Round(time.Second))}
	}
	return []Check{ok(name, "%s; no record is ahead of it", now)}
}

func agent(f *Facts) []Check {
	const name = "agent"
	switch a := f.Agent; a.State {
	case Running:
		return []Check{ok(name, "version %s, pid %d, answers on %s", a.Version, a.PID, a.Socket)}
	case Silent:
		return []Check{fail(name, "look at its log for what it waits for; start it again, which costs no connection", "at %s: %s", a.Socket, a.Why)}
	default:
		return []Check{warn(name, "start it: sluice agent", "none answers on %s", a.Socket)}
	}
}

func peers(f *Facts) []Check {
	const name = "peers"
	a := f.Agent
	if a.State != Running {
		return nil
	}
	if !a.InCluster {
		return []Check{warn(name, "sluice init, or sluice join ADDR --token TOKEN", "this node is in no cluster")}
	}
	var silent []string
	for _, p := range a.Peers {
		if p.State != "alive" {
			silent = append(silent, fmt.Sprintf("%s is %s since %s", p.Name, p.State, p.Since.UTC().Format(time.RFC3339)))
		}
	}
	if len(silent) > 0 {
		return []Check{warn(name, "look there with sluice doctor; let the gossip port, TCP and UDP, pass both ways", "%d of %d are not alive: %s", len(silent), len(a.Peers), listed(silent))}
	}
	return []Check{ok(name, "all %d are alive", len(a.Peers))}
}

func problems(f *Facts) []Check {
	const name = "problems"
	switch a := f.Agent; {
	case a.State != Running:
		return nil
	case !a.Applied:
		return []Check{warn(name, "wait a moment and ask again", "the agent has not looked at the kernel yet")}
	case len(a.Problems) > 0:
		return []Check{warn(name, "sluice status, which says why and since when", "%s not as wished: %s", count(len(a.Problems), "object"), listed(a.Problems))}
	}
	return []Check{ok(name, "all objects are programmed")}
}

func repairs(f *Facts) []Check {
	const name = "repairs"
	switch a := f.Agent; {
	case a.State != Running:
		return nil
	case a.Repairs == 0:
		return []Check{ok(name, "none since the agent started")}
	case a.Repaired == "":
		return []Check{ok(name, "%d since the agent started", a.Repairs)}
	default:
		return []Check{ok(name, "%d since the agent started, the last: %s", a.Repairs, a.Repaired)}
	}
}

func planned(f *Facts) []Check {
	const name = "plan"
	switch a := f.Agent; {
	case a.State != Running:
		return nil
	case a.Undiffed != "":
		return []Check{fail(name, "sluice plan --diff; look at the agent's log", "the kernel cannot be compared with it: %s", a.Undiffed)}
	case len(a.Differences) > 0:
		return []Check{fail(name, "sluice plan --diff, which names all; sluice status says why", "the kernel differs in %s: %s", count(len(a.Differences), "object"), listed(a.Differences))}
	}
	return []Check{ok(name, "the kernel is as planned")}
}
