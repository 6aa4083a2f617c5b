package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"
)

// versionVerb shows what this program is; it asks no agent.
func versionVerb() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Args:  words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			version, platform := buildVersion(), runtime.GOOS+"/"+runtime.GOARCH
			answer := &structpb.Struct{Fields: map[string]*structpb.Value{
				"version":  structpb.NewStringValue(version),
				"go":       structpb.NewStringValue(runtime.Version()),
				"platform": structpb.NewStringValue(platform),
			}}
			return out.print(cmd, answer, func(p *page) {
				p.line("sluice " + version + " " + runtime.Version() + " " + platform)
			})
		},
	}
	out.addTo(cmd)
	return cmd
}

// buildVersion is what the Go tool recorded: a tag, or one made from the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
