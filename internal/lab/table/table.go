// Package table is what the lab expects of a cluster, cell by cell, and what it
// sees instead.
//
//	who asks -> whom, how: which endpoints answer, and whose address they see
//
// The expected column is text that does not change from run to run.
package table

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sluice-mesh/sluice/internal/lab/cluster"
)

// Check is one thing to try and what should come of it.
type Check struct {
	From, To, How string
	Want          string
	try           func() string
	silent        bool // expected to cost its whole time limit: tried beside the others
}

// Name is the same on every run.
func (c *Check) Name() string { return c.From + " -> " + c.To + " " + c.How }

// Cell is a check with what was seen.
type Cell struct {
	Check
	Got string
}

// Right says whether what was seen is what was expected.
func (c *Cell) Right() bool { return c.Got == c.Want }

// Table is the outcome of checks, in their order.
type Table []Cell

// Run tries all checks, one after the other: two that ask one balancer at the
// same time would disturb each other's turns.
func Run(checks []Check) Table {
	t := make(Table, len(checks))
	var beside sync.WaitGroup
	for i, c := range checks {
		t[i].Check = c
		if c.silent {
			beside.Go(func() { t[i].Got = c.try() })
		}
	}
	for i, c := range checks {
		if !c.silent {
			t[i].Got = c.try()
		}
	}
	beside.Wait()
	return t
}

// Wrong are the cells that are not as expected.
func (t Table) Wrong() []Cell {
	var wrong []Cell
	for _, c := range t {
		if !c.Right() {
			wrong = append(wrong, c)
		}
	}
	return wrong
}

// Print writes the table, one line for cells that differ only in how they were
// tried, then each wrong cell, then the totals.
func (t Table) Print(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, "FROM\tTO\tHOW\tSEEN")
	for i := 0; i < len(t); {
		c, hows := t[i], []string{t[i].How}
		for i++; i < len(t) && c.Right() && t[i].Right() && sameButHow(c, t[i]); i++ {
			hows = append(hows, t[i].How)
		}
		seen := c.Got
		if !c.Right() {
			seen += "  WRONG"
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", c.From, c.To, strings.Join(hows, " "), seen)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	wrong := t.Wrong()
	for _, c := range wrong {
		fmt.Fprintf(w, "wrong: %s: expected %q, seen %q\n", c.Name(), c.Want, c.Got)
	}
	_, err := fmt.Fprintf(w, "%d cells, %d wrong\n", len(t), len(wrong))
	return err
}

func sameButHow(a, b Cell) bool { return a.From == b.From && a.To == b.To && a.Want == b.Want }

// All are the checks of a populated cluster.
func All(c *cluster.Cluster) []Check { return checks(c, usual) }

// Hasty are the same checks for where many will find silence: they wait less for
// an answer, and so may not be trusted where a machine is very slow.
func Hasty(c *cluster.Cluster) []Check { return checks(c, silent) }

func checks(c *cluster.Cluster, wait time.Duration) []Check {
	b := builder{Cluster: c, wait: wait}
	for _, part := range []func(){
		b.outside, b.nodes, b.bridged, b.endpoints, b.eastWest, b.onePort, b.large, b.refusals, b.walls,
	} {
		part()
	}
	return b.checks
}

// Select are the checks with these names, in the table's order.
func Select(checks []Check, names ...string) []Check {
	var some []Check
	for _, c := range checks {
		if slices.Contains(names, c.Name()) {
			some = append(some, c)
		}
	}
	return some
}
