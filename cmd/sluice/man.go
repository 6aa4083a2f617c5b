package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/structpb"
)

// manVerb writes the manual of every command into a directory.
func (a *app) manVerb() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "man DIR",
		Short: "Write a manual page of every command into a directory",
		Args:  words("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := writeManual(cmd.Root(), args[0])
			if err != nil {
				f := &failure{what: "write the manual", why: err.Error(), do: "give a directory that can be written to"}
				if errors.Is(err, fs.ErrNotExist) {
					f.do = "make the directory first"
				}
				return f
			}
			answer := &structpb.Struct{Fields: map[string]*structpb.Value{"files": structpb.NewListValue(texts(files))}}
			return out.print(cmd, answer, func(p *page) {
				p.line(fmt.Sprintf("%d pages are in %s; read one with man -l", len(files), args[0]))
			})
		},
	}
	out.addTo(cmd)
	return cmd
}

func texts(values []string) *structpb.ListValue {
	list := &structpb.ListValue{}
	for _, v := range values {
		list.Values = append(list.Values, structpb.NewStringValue(v))
	}
	return list
}

// writeManual returns the files that it wrote.
func writeManual(cmd *cobra.Command, dir string) ([]string, error) {
	file := filepath.Join(dir, manName(cmd)+".8")
	if err := os.WriteFile(file, []byte(manPage(cmd)), 0o644); err != nil {
		return nil, err
	}
	files := []string{file}
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		below, err := writeManual(sub, dir)
		if err != nil {
			return nil, err
		}
		files = append(files, below...)
	}
	return files, nil
}

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the command's page in the man macros, which every system reads.
func manPage(cmd *cobra.Command) string {
	cmd.InitDefaultHelpFlag()
	var t strings.Builder
	fmt.Fprintf(&t, ".TH \"%s\" 8 \"\" \"sluice\" \"sluice\"\n", roff(strings.ToUpper(manName(cmd))))
	fmt.Fprintf(&t, ".SH NAME\n%s \\- %s\n", roff(manName(cmd)), roff(cmd.Short))
	use := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&t, ".SH SYNOPSIS\n\\fB%s\\fR\n", roff(use))
	if cmd.Long != "" {
		fmt.Fprintf(&t, ".SH DESCRIPTION\n%s\n", roff(cmd.Long))
	}
	manFlags(&t, "OPTIONS", cmd.NonInheritedFlags())
	manFlags(&t, "GLOBAL OPTIONS", cmd.InheritedFlags())
	var also []string
	if cmd.HasParent() {
		also = append(also, manName(cmd.Parent()))
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			also = append(also, manName(sub))
		}
	}
	if len(also) > 0 {
		for i, name := range also {
			also[i] = "\\fB" + roff(name) + "\\fR(8)"
		}
		fmt.Fprintf(&t, ".SH SEE ALSO\n%s\n", strings.Join(also, ",\n"))
	}
	return t.String()
}

func manFlags(t *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(t, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "\\fB" + roff("--"+f.Name) + "\\fR"
		if f.Shorthand != "" {
			name = "\\fB" + roff("-"+f.Shorthand) + "\\fR, " + name
		}
		if value != "" {
			name += " \\fI" + roff(value) + "\\fR"
		}
		if byDefault := f.DefValue; !slices.Contains([]string{"", "0", "[]", "false"}, byDefault) {
			usage += " (default " + byDefault + ")"
		}
		fmt.Fprintf(t, ".TP\n%s\n%s\n", name, roff(usage))
	})
}

// roff keeps what text holds from being taken for a command of the formatter.
func roff(text string) string {
	text = strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = "\\&" + line
		}
	}
	return strings.Join(lines, "\n")
}
