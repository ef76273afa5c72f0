package cli

import (
	"fmt"
	"runtime/debug"
)

// VersionCommand prints the version, the revision and the Go version of the binary.
type VersionCommand struct{}

// buildInfo has what the Go toolchain recorded in the binary.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// readBuild reads the build information. Version is "devel" for a build from a work tree.
func readBuild() buildInfo {
	b := buildInfo{Version: "devel"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// Run prints one line, or JSON with --json.
func (VersionCommand) Run(c *CLI) error {
	b := readBuild()
	return c.Print(b, func() {
		fmt.Fprintf(c.Out, "pagestream %s", b.Version)
		if b.Revision != "" {
			fmt.Fprintf(c.Out, " (%.12s)", b.Revision)
		}
		fmt.Fprintf(c.Out, " %s\n", b.Go)
	})
}
