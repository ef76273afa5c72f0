package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	// changelogVersion matches the heading of a version.
	changelogVersion = regexp.MustCompile(`^## \[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d{2}-\d{2})$`)
	// changelogSections are the headings below a version, in their order.
	changelogSections = []string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
)

// changelogProblems returns what is not in the form of Keep a Changelog 1.1.0, one text each.
func changelogProblems(text string) (problems []string) {
	add := func(n int, what string) { problems = append(problems, "line "+strconv.Itoa(n+1)+": "+what) }
	lines := strings.Split(text, "\n")
	if lines[0] != "# Changelog" {
		add(0, "the first line is # Changelog")
	}
	var versions []string
	var before [3]int
	section, entries, date := -1, -1, "" // entries is -1 outside of a section
	endSection := func(n int) {
		if entries == 0 {
			add(n, "the section before has no entry")
		}
		entries = -1
	}
	for n, line := range lines {
		found := changelogVersion.FindStringSubmatch(line)
		switch {
		case found != nil:
			endSection(n)
			var v [3]int
			for i := range v {
				v[i], _ = strconv.Atoi(found[i+1])
			}
			if _, err := time.Parse(time.DateOnly, found[4]); err != nil {
				add(n, "the date does not exist")
			}
			if len(versions) > 1 && (slices.Compare(v[:], before[:]) >= 0 || found[4] > date) {
				add(n, "versions are listed from the newest to the oldest")
			}
			versions, before, date, section = append(versions, strings.Join(found[1:4], ".")), v, found[4], -1
		case line == "## [Unreleased]":
			if len(versions) > 0 {
				add(n, "Unreleased comes first, and once")
			}
			versions = append(versions, "Unreleased")
		case strings.HasPrefix(line, "## "):
			add(n, "a version is ## [1.2.3] - 2026-01-31, or ## [Unreleased]")
		case strings.HasPrefix(line, "### "):
			endSection(n)
			i := slices.Index(changelogSections, strings.TrimPrefix(line, "### "))
			if i <= section || len(versions) == 0 {
				add(n, "a version has the sections "+strings.Join(changelogSections, ", ")+", each once and in this order")
			}
			section, entries = i, 0
		case strings.HasPrefix(line, "- "):
			if entries < 0 {
				add(n, "an entry is in a section")
			}
			entries++
		}
	}
	endSection(len(lines) - 1)
	if len(versions) == 0 || versions[0] != "Unreleased" {
		add(0, "there is a section ## [Unreleased]")
	}
	for _, v := range versions {
		if !strings.Contains(text, "\n["+v+"]: https://") {
			add(len(lines)-1, "version "+v+" has no link at the end")
		}
	}
	return problems
}

// TestChangelogHasTheForm checks the form of CHANGELOG.md, from which the notes of a release are taken.
func TestChangelogHasTheForm(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	require.NoError(t, err)
	assert.Empty(t, changelogProblems(string(text)))

	// The check itself.
	for old, now := range map[string]string{
		"# Changelog\n":             "# Changes\n",
		"## [Unreleased]\n":         "",
		"## [0.1.0] - 2026-11-26":   "## 0.1.0",
		"] - 2026-11-26\n":          "] - 2026-13-26\n",
		"### Added\n":               "### New\n",
		"### Security\n":            "### Added\n",
		"### Changed\n":             "### Changed\n\n### Changed\n",
		"\n[0.1.0]: https://":       "\n0.1.0: https://",
		"## [0.1.0] - 2026-11-26\n": "## [0.1.0] - 2026-11-26\n\n## [0.2.0] - 2026-11-20\n",
		"The first version.\n":      "- The first version.\n",
	} {
		broken := bytes.Replace(text, []byte(old), []byte(now), 1)
		require.NotEqual(t, string(text), string(broken), old)
		assert.NotEmpty(t, changelogProblems(string(broken)), "%q for %q", now, old)
	}
}
