package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// format is the form of what a verb prints; a flag.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
)

// String, Set and Type make it a flag's value.
func (f *format) String() string { return string(*f) }

// Set takes one of the three forms.
func (f *format) Set(text string) error {
	switch form := format(text); form {
	case formatTable, formatJSON, formatYAML:
		*f = form
		return nil
	default:
		return fmt.Errorf("choose table, json or yaml")
	}
}

// Type is what the help text calls the value.
func (f *format) Type() string { return "FORMAT" }

// addTo gives a verb the flag -o.
func (f *format) addTo(cmd *cobra.Command) {
	*f = formatTable
	cmd.Flags().VarP(f, "output", "o", "table, json or yaml")
}

// print writes an answer in its form. Table draws it for people; the other two
// are the message as it is.
func (f *format) print(cmd *cobra.Command, answer proto.Message, table func(*page)) error {
	var text []byte
	var err error
	switch *f {
	case formatJSON:
		text, err = toJSON(answer)
	case formatYAML:
		text, err = toYAML(answer)
	default:
		text, err = draw(table)
	}
	if err == nil {
		_, err = cmd.OutOrStdout().Write(text)
	}
	if err != nil {
		return &failure{what: "print the answer", why: err.Error(), do: "what was asked for is done; ask for it again"}
	}
	return nil
}

// toJSON writes every field, set or not, under the proto's names. protojson
// varies its white space from build to build on purpose, so that is made anew.
func toJSON(answer proto.Message) ([]byte, error) {
	packed, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(answer)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := json.Indent(&text, packed, "", "  "); err != nil {
		return nil, err
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}

// page is text for people: lines, and tables whose columns are aligned.
type page struct {
	out  *bytes.Buffer
	tabs *tabwriter.Writer
}

// draw collects a page.
func draw(fill func(*page)) ([]byte, error) {
	var text bytes.Buffer
	p := &page{&text, tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)}
	fill(p)
	if err := p.tabs.Flush(); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// row adds a line of cells. An empty cell is a dash, so that columns can be
// counted; what could move the cursor of a terminal is quoted.
func (p *page) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		cells[i] = clean(cell)
	}
	_, _ = fmt.Fprintln(p.tabs, strings.Join(cells, "\t")) // into memory
}

// line adds a line that belongs to no column, and ends the table above it.
func (p *page) line(text string) {
	_, _ = fmt.Fprintln(p.tabs, clean(text)) // into memory
}

// text adds lines as they are, tabs too.
func (p *page) text(lines string) {
	_ = p.tabs.Flush() // into memory
	p.out.WriteString(lines)
}

// clean quotes text that holds control characters: some of it comes from other
// machines and goes to a terminal.
func clean(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// number is a cell.
func number[N ~uint32 | ~uint64 | ~int](n N) string { return fmt.Sprint(n) }

// positive is a cell of a number, of which 0 means none.
func positive(n uint32) string {
	if n == 0 {
		return ""
	}
	return number(n)
}

// list is a cell of several values.
func list(values []string) string { return strings.Join(values, ",") }
