package meta

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// GraphVersion is the version of the Graph API that is used if none is configured.
const GraphVersion = "v26.0"

// VersionEndsSoon is how long before the end of a version of the Graph API a warning is given.
const VersionEndsSoon = 90 * 24 * time.Hour

// graphVersions has the versions of the Graph API, the newest first, with the day after which each is
// no longer served; the zero time is not announced yet. Calls of a version that has ended are served by
// the oldest one that has not, so answers may change without notice.
//
// Source: the table of https://developers.facebook.com/docs/graph-api/changelog, as of 23 November 2026.
var graphVersions = []struct {
	name string
	ends time.Time
}{
	{GraphVersion, time.Time{}},
	{"v25.0", day(2028, time.July, 29)},
	{"v24.0", day(2028, time.February, 18)},
	{"v23.0", day(2027, time.October, 8)},
	{"v22.0", day(2027, time.May, 20)},
	{"v21.0", day(2027, time.January, 21)},
	{"v20.0", day(2026, time.September, 24)},
}

func day(year int, month time.Month, d int) time.Time {
	return time.Date(year, month, d, 0, 0, 0, 0, time.UTC)
}

// VersionEnd returns when a version of the Graph API ends: the zero time if that is not known. A
// version that is older than those in the table ended with the oldest of them or before.
func VersionEnd(version string) time.Time {
	oldest := graphVersions[len(graphVersions)-1]
	for _, v := range graphVersions {
		if v.name == version {
			return v.ends
		}
	}
	if number, ok := versionNumber(version); ok {
		if last, _ := versionNumber(oldest.name); number < last {
			return oldest.ends
		}
	}
	return time.Time{}
}

// versionNumber returns the number of a version such as v23.0.
func versionNumber(version string) (float64, bool) {
	number, err := strconv.ParseFloat(strings.TrimPrefix(version, "v"), 64)
	return number, err == nil
}

// judgeVersion finds that the version of the Graph API that an app uses ends soon or has ended.
func judgeVersion(a AppFacts) []Finding {
	end := VersionEnd(a.Version)
	if end.IsZero() || end.Sub(a.At) >= VersionEndsSoon {
		return nil
	}
	f := Finding{
		Cause: StateGraphVersionEnds, Severity: Warning,
		Summary:  fmt.Sprintf("Version %s of the Graph API, which app %s uses, ends soon.", a.Version, a.Name),
		Evidence: []string{"Meta serves it until " + end.Format(time.DateOnly)},
		Do: []string{
			"set graph_version: " + GraphVersion + " in the app's settings, or leave it out",
			"pagestream config check", "restart pagestream serve",
		},
	}
	if !a.At.Before(end) {
		f.Severity = Wrong
		f.Summary = fmt.Sprintf("Version %s of the Graph API, which app %s uses, has ended.", a.Version, a.Name)
		f.Evidence = []string{"Meta served it until " + end.Format(time.DateOnly) +
			"; calls are answered by another version now"}
	}
	return []Finding{f}
}
