package cli

import (
	"cmp"
	"fmt"
	"runtime/debug"
)

// VersionCommand prints the version of the binary.
type VersionCommand struct{}

// Build is what a release sets when it is linked. Empty fields are taken from what the Go toolchain recorded.
type Build struct {
	// Version is the released version, Commit the revision of the source, Date its time (RFC 3339).
	Version, Commit, Date string
}

// buildInfo is the version as JSON.
type buildInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Date     string `json:"date,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// read returns what the release has set, and else what the Go toolchain recorded. Version is "devel" for a build
// from a work tree.
func (b Build) read() buildInfo {
	out := buildInfo{Version: b.Version, Revision: b.Commit, Date: b.Date}
	info, ok := debug.ReadBuildInfo()
	if ok {
		out.Go = info.GoVersion
		if v := info.Main.Version; v != "(devel)" {
			out.Version = cmp.Or(out.Version, v)
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				out.Revision = cmp.Or(out.Revision, s.Value)
			case "vcs.time":
				out.Date = cmp.Or(out.Date, s.Value)
			case "vcs.modified":
				out.Modified = b.Commit == "" && s.Value == "true"
			}
		}
	}
	out.Version = cmp.Or(out.Version, "devel")
	return out
}

// Run prints one line, or JSON with --json.
func (VersionCommand) Run(c *CLI) error {
	b := c.build.read()
	return c.Print(b, func() {
		fmt.Fprintf(c.Out, "pagestream %s", b.Version)
		if b.Revision != "" {
			fmt.Fprintf(c.Out, " (%.12s", b.Revision)
			if b.Modified {
				fmt.Fprint(c.Out, ", modified")
			}
			if b.Date != "" {
				fmt.Fprintf(c.Out, ", %s", b.Date)
			}
			fmt.Fprint(c.Out, ")")
		}
		fmt.Fprintf(c.Out, " %s\n", b.Go)
	})
}
