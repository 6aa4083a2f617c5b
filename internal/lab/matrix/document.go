package matrix

import (
	"fmt"
	"strings"
)

// Table is the expectations as docs/MATRIX.md shows them.
func Table() string {
	var text strings.Builder
	text.WriteString("| who | dials | at | nat | internal | icc off | direct routing | model |\n|---|---|---|---|---|---|---|---|\n")
	var last Asker
	for _, r := range Rows() {
		who := string(r.Asker)
		if r.Asker == last {
			who = ""
		}
		last = r.Asker
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", who, r.Port, r.At, r.Want[0], r.Want[1], r.Want[2], r.Want[3], r.Model)
	}
	return text.String()
}
