package matrix

import (
	"fmt"
	"strings"
)

// Table is the expectations as docs/MATRIX.md shows them, and what each protocol's cells come to.
func Table() string {
	var text strings.Builder
	rows(&text)
	text.WriteString("\n| every row over | cells | caller | gateway | dialled | – | tried by | kernel |\n|---|---|---|---|---|---|---|---|\n")
	for _, p := range Protocols() {
		n := map[Want]int{}
		for _, c := range p.Cells {
			n[c.Want]++
		}
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %d | %d | `%s` | %s |\n", strings.ToUpper(p.Name), len(p.Cells), n[Own], n[Gateway], n[Dialled], n[No], p.Test, p.Kernel)
	}
	return text.String()
}

func rows(text *strings.Builder) {
	text.WriteString("| who | dials | at | nat | internal | icc off | direct routing | model |\n|---|---|---|---|---|---|---|---|\n")
	var last Asker
	for _, r := range Rows() {
		who := string(r.Asker)
		if r.Asker == last {
			who = ""
		}
		last = r.Asker
		fmt.Fprintf(text, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", who, r.Port, r.At, r.Want[0], r.Want[1], r.Want[2], r.Want[3], r.Model)
	}
}
