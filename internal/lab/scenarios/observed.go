package scenarios

import (
	"fmt"
	"slices"
	"strings"
)

// Text is what runs of scenarios showed, as it is kept in testdata: below each title
// "QUESTION | tcp v4, tcp v6 | OUTCOME", one line for what differs only in how it was asked.
func Text(all []*Seen) string {
	var b strings.Builder
	for _, s := range all {
		fmt.Fprintf(&b, "-- %s --\n", s.Title)
		for i := 0; i < len(s.Answers); {
			first, hows := s.Answers[i], []string{s.Answers[i].How.String()}
			for i++; i < len(s.Answers) && s.Answers[i].Question == first.Question && s.Answers[i].Outcome == first.Outcome; i++ {
				hows = append(hows, s.Answers[i].How.String())
			}
			fmt.Fprintf(&b, "%s | %s | %s\n", strings.Join(strings.Fields(first.Question), " "), strings.Join(hows, ", "), first.Outcome)
		}
	}
	return b.String()
}

// readText is the inverse of Text.
func readText(text string) (map[string][]Answer, error) {
	seen := map[string][]Answer{}
	title := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := heading(line); ok {
			title = name
			seen[title] = []Answer{}
			continue
		}
		part := strings.Split(line, " | ")
		if len(part) != 3 || title == "" {
			return nil, fmt.Errorf("observation %q is not QUESTION | HOW | OUTCOME", line)
		}
		only := strings.HasPrefix(line, "nft: ") || strings.HasPrefix(line, "ipvs: ")
		for name := range strings.SplitSeq(part[1], ", ") {
			i := slices.IndexFunc(Hows(), func(h How) bool { return h.String() == name })
			if i < 0 {
				return nil, fmt.Errorf("observation %q: %q is neither protocol nor family", line, name)
			}
			seen[title] = append(seen[title], Answer{Question: part[0], How: Hows()[i], Only: only, Outcome: part[2]})
		}
	}
	return seen, nil
}

// Column is one kernel and balancer of the table.
type Column struct {
	Heading string
	seen    map[string][]Answer // by title
}

// NewColumn reads what was kept of its runs.
func NewColumn(title, observed string) (Column, error) {
	seen, err := readText(observed)
	return Column{title, seen}, err
}

// Table is docs/EQUIVALENCE.md's: a row for each scenario, in each cell how TCP over
// IPv4 and IPv6 and UDP over both compare with the first column. It refuses what is not explained.
func Table(all []*Scenario, columns []Column) (string, error) {
	var b strings.Builder
	fmt.Fprint(&b, "| scenario |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.Heading)
	}
	fmt.Fprintf(&b, "\n|---|%s\n", strings.Repeat("---|", len(columns)))
	var notes []string
	for _, s := range all {
		mark := ""
		if s.Differs != "" {
			notes = append(notes, s.Differs)
			if i := slices.Index(notes, s.Differs); i < len(notes)-1 {
				notes = notes[:len(notes)-1]
			}
			mark = fmt.Sprintf(" (%d)", slices.Index(notes, s.Differs)+1)
		}
		fmt.Fprintf(&b, "| %s%s |", s.Title(), mark)
		for _, c := range columns {
			cell, err := c.cell(s, columns[0])
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, " `%s` |", cell)
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprintln(&b)
	for i, note := range notes {
		fmt.Fprintf(&b, "%d. %s.\n", i+1, note)
	}
	return b.String(), nil
}

// cell is one mark for each protocol and family.
func (c Column) cell(s *Scenario, reference Column) (string, error) {
	have, ok := c.seen[s.Title()]
	if !ok {
		return "", fmt.Errorf("%s: scenario %q was not observed: run the tests there with -update", c.Heading, s.Title())
	}
	var cell strings.Builder
	for _, how := range Hows() {
		mark := compare(of(have, how), of(reference.seen[s.Title()], how))
		if mark == "!" {
			return "", fmt.Errorf("%s: scenario %q, %s: it was answered otherwise than in column %q", c.Heading, s.Title(), how, reference.Heading)
		}
		cell.WriteString(mark)
	}
	return cell.String(), nil
}

func of(answers []Answer, how How) []Answer {
	var some []Answer
	for _, a := range answers {
		if a.How == how {
			some = append(some, a)
		}
	}
	return some
}

// compare says "=" for the same answers to all common questions, "d" where there also are questions
// to one balancer alone, "." where nothing was asked, "-" where no packet passes that
// could tell, and "!" for another answer.
func compare(have, reference []Answer) string {
	mark := "."
	common := func(a Answer) bool { return a.Only }
	for _, a := range have {
		if mark == "." && a.Outcome == notAsked {
			mark = "-"
		} else if a.Outcome != notAsked && !a.Only {
			mark = "="
		}
	}
	if slices.ContainsFunc(have, func(a Answer) bool { return a.Only && a.Outcome != notAsked }) {
		mark = "d"
	}
	left, right := slices.DeleteFunc(slices.Clone(have), common), slices.DeleteFunc(slices.Clone(reference), common)
	if len(left) != len(right) {
		return "!"
	}
	for i := range left {
		same := left[i].Question == right[i].Question && left[i].Outcome == right[i].Outcome
		if !same && left[i].Outcome != notAsked && right[i].Outcome != notAsked {
			return "!"
		}
	}
	return mark
}
