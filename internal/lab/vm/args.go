package vm

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// ParseArgs reads "[-t SECONDS] [-m MEMORY] [-1] [-systemd] [-o DIR]... COMMAND [ARG...]"
// for a command that starts in dir with env. Where the command is a Go test
// binary (as under "go test -exec"), the directories into which its flags and
// GOCOVERDIR make it write are outputs too.
func ParseArgs(args []string, dir string, env []string) (Options, error) {
	o := Options{Dir: dir, Env: env}
	flags := flag.NewFlagSet("sluicevm", flag.ContinueOnError)
	flags.SetOutput(new(strings.Builder)) // the caller shows the error
	limit := flags.Float64("t", 300, "")
	flags.StringVar(&o.Memory, "m", "4G", "")
	flags.BoolVar(&o.Steady, "1", false, "")
	flags.BoolVar(&o.Systemd, "systemd", false, "")
	flags.Func("o", "", func(dir string) error {
		o.Outputs = append(o.Outputs, dir)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	o.Command = flags.Args()
	o.Limit = time.Duration(*limit * float64(time.Second))
	switch {
	case len(o.Command) == 0:
		return Options{}, errors.New("no command")
	case o.Limit <= 0:
		return Options{}, fmt.Errorf("-t %v: must be more than 0 seconds", *limit)
	case !regexp.MustCompile(`^[1-9][0-9]*[MG]$`).MatchString(o.Memory):
		return Options{}, fmt.Errorf("-m %s: must be a number and M or G", o.Memory)
	}
	o.Outputs = append(o.Outputs, testOutputs(o.Command[1:], dir)...)
	for _, v := range env {
		if cover, ok := strings.CutPrefix(v, "GOCOVERDIR="); ok && cover != "" {
			o.Outputs = append(o.Outputs, under(dir, cover))
		}
	}
	return o, nil
}

// testOutputs lists the directories into which a test binary's flags make it write.
func testOutputs(args []string, dir string) []string {
	var dirs, files []string
	base := dir // of relative files
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if value == "" || !strings.HasPrefix(arg, "-") {
			continue
		}
		switch name {
		case "test.outputdir":
			base = under(dir, value)
			dirs = append(dirs, base)
		case "test.gocoverdir", "test.fuzzcachedir":
			dirs = append(dirs, under(dir, value))
		case "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.blockprofile",
			"test.mutexprofile", "test.trace", "test.testlogfile":
			files = append(files, value)
		}
	}
	for _, f := range files {
		dirs = append(dirs, filepath.Dir(under(base, f)))
	}
	return dirs
}

// under is path as seen from dir.
func under(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
