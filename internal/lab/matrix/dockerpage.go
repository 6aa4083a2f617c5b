package matrix

import (
	"fmt"
	"slices"
	"strings"
)

// DockerTable is what Docker does otherwise, as docs/DOCKER.md shows it: the reasons, and the
// rows of each daemon that have a difference.
func DockerTable() string {
	var text strings.Builder
	fmt.Fprintf(&text, "Measured with docker.io %s.\n\n| daemon | flags | cells that differ, of %d |\n|---|---|---|\n", DockerVersion, len(Cells()))
	for _, d := range Daemons() {
		flags := "none"
		if len(d.Flags()) > 0 {
			flags = "`" + strings.Join(d.Flags(), " ") + "`"
		}
		fmt.Fprintf(&text, "| %s | %s | %d |\n", d, flags, count(d, 0))
	}
	text.WriteString("\n| network | options |\n|---|---|\n")
	for _, n := range Networks() {
		options := "none"
		if len(n.Options()) > 0 {
			options = "`" + strings.Join(n.Options(), " ") + "`"
		}
		fmt.Fprintf(&text, "| %s | %s |\n", n, options)
	}
	text.WriteString("\n## The differences\n")
	for i, difference := range Differences() {
		fmt.Fprintf(&text, "\n### %d. %s\n\n- Docker: %s\n- Here: %s\n- Cells:", i+1, difference.Name, difference.Docker, difference.Sluice)
		for j, d := range Daemons() {
			fmt.Fprintf(&text, "%s %d %s", []string{"", ","}[min(j, 1)], count(d, i+1), d)
		}
		text.WriteString(".\n")
	}
	for _, d := range Daemons() {
		fmt.Fprintf(&text, "\n## dockerd %s\n\n| who | dials | at | nat | internal | icc off | direct routing |\n|---|---|---|---|---|---|---|\n%s", d, rowsOf(d))
	}
	return text.String()
}

// count is how many cells of a daemon differ by a reason; number 0: by any.
func count(d Daemon, number int) int {
	n := 0
	for _, c := range Cells() {
		if _, numbers := Docker(d, c); slices.Contains(numbers, number) || number == 0 && numbers != nil {
			n++
		}
	}
	return n
}

// rowsOf are the rows of a daemon that have a difference.
func rowsOf(d Daemon) string {
	var text strings.Builder
	cells := Cells()
	for _, row := range Rows() {
		line, differs := fmt.Sprintf("| %s | %s | %s |", row.Asker, row.Port, row.At), false
		for _, n := range Networks() {
			var group []Cell
			for _, c := range cells {
				if c.Network == n && c.Row == row {
					group = append(group, c)
					_, numbers := Docker(d, c)
					differs = differs || numbers != nil
				}
			}
			line += " " + answersOf(d, group) + " |"
		}
		if differs {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}

// answersOf is what comes of the cells that differ in family and protocol only.
func answersOf(d Daemon, cells []Cell) string {
	var order []string
	who := map[string][]Cell{}
	for _, c := range cells {
		does, numbers := Docker(d, c)
		answer := string(does)
		if numbers != nil {
			answer = fmt.Sprintf("**%s** (%d)", does, numbers[0])
		}
		if who[answer] == nil {
			order = append(order, answer)
		}
		who[answer] = append(who[answer], c)
	}
	if len(order) == 1 {
		return order[0]
	}
	for i, answer := range order {
		order[i] = kindsOf(who[answer]) + ": " + answer
	}
	return strings.Join(order, "; ")
}

// kindsOf names some of the four kinds of packets.
func kindsOf(cells []Cell) string {
	var families, protos []string
	for _, c := range cells {
		families = append(families, map[Family]string{IPv4: "IPv4", IPv6: "IPv6"}[c.Family])
		protos = append(protos, strings.ToUpper(c.Proto))
	}
	families, protos = slices.Compact(families), slices.Compact(slices.Sorted(slices.Values(protos)))
	switch {
	case len(families) == 1 && len(protos) == 2:
		return families[0]
	case len(families) == 2 && len(protos) == 1:
		return protos[0]
	}
	return strings.Join(families, " and ") + " " + strings.Join(protos, " and ")
}
