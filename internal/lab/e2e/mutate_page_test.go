package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-mesh/sluice/internal/lab/golden"
)

const mutatePage = "../../../docs/MUTATE.md"

// The table of the page is the one that parts are taken away by.
func TestMutatePage(t *testing.T) { golden.Table(t, mutatePage, mutateTable()) }

// mutateTable is the lines as the page shows them.
func mutateTable() string {
	var rows strings.Builder
	var noticed, behind, nobody int
	last := ""
	for _, l := range lines() {
		where, what, _ := strings.Cut(l.part, ": ")
		first := where
		if where == last {
			first = ""
		}
		last = where
		says := strings.Join(l.by, "; ")
		switch {
		case l.nobody != "":
			nobody++
			says = "nobody can: " + l.nobody
		case l.behind != "":
			behind++
			says = fmt.Sprintf("when `%s` is away too: %s", l.behind, says)
		default:
			noticed++
		}
		switch l.world {
		case openWorld:
		case sixWorld:
			says += " (IPv6 underlay)"
		case respectWorld:
			says += " (`--firewall respect`)"
		}
		fmt.Fprintf(&rows, "| %s | `%s` | %s |\n", first, what, says)
	}
	return fmt.Sprintf("%d parts: %d are noticed, %d stand behind a second lock, %d nobody can miss.\n\n| where | without | notices |\n|---|---|---|\n%s",
		len(lines()), noticed, behind, nobody, &rows)
}
