package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// Tolerance is how much worse than the recorded ratio a ratio may be, as a fraction
// of it.
const Tolerance = 0.30

// rounding avoids that a ratio which is worse by exactly the tolerance fails because
// of a rounding error.
const rounding = 1e-9

// ErrSlower is returned when a ratio is worse than the recorded one by more than the
// tolerance.
var ErrSlower = errors.New("slower than recorded")

// Regression is a figure whose ratio is worse than the recorded one.
type Regression struct {
	Figure
	// Recorded is the recorded ratio.
	Recorded float64
}

// Check compares the ratios of the figures that both reports have. It returns those
// that are worse by more than the tolerance, in the order of the second report, and
// how many it compared.
func Check(recorded, measured Report) (regressions []Regression, compared int) {
	byName := make(map[string]Figure, len(recorded.Figures))
	for _, f := range recorded.Figures {
		byName[f.Name] = f
	}
	for _, f := range measured.Figures {
		old, known := byName[f.Name]
		if !known || f.Ungated || old.Ungated || old.Ratio <= 0 || old.Better != f.Better {
			continue
		}
		compared++
		if worse(old.Ratio, f.Ratio, f.Better) {
			regressions = append(regressions, Regression{f, old.Ratio})
		}
	}
	return regressions, compared
}

// worse reports whether the measured ratio is worse than the tolerance allows.
func worse(recorded, measured float64, better string) bool {
	if better == Lower {
		return measured > recorded*(1+Tolerance)+rounding
	}
	return measured < recorded*(1-Tolerance)-rounding
}

// Gate measures and compares the result with a recorded report. The sections with
// regressions are measured a second time, and the better ratio counts: other load on
// the machine may cause a regression that does not occur again.
func Gate(ctx context.Context, o Options, recorded Report) (Report, []Regression, error) {
	measured, err := Run(ctx, o)
	if err != nil {
		return measured, nil, err
	}
	regressions, compared := Check(recorded, measured)
	if compared == 0 {
		return measured, nil, errors.New("the recorded report has none of the figures that were measured")
	}
	if len(regressions) == 0 {
		return measured, nil, nil
	}
	if o.Only, err = sectionsOf(regressions); err != nil {
		return measured, regressions, err
	}
	second, err := Run(ctx, o)
	if err != nil {
		return measured, regressions, fmt.Errorf("measure again: %w", err)
	}
	measured.takeBetter(second, regressions)
	measured.Took += second.Took
	regressions, _ = Check(recorded, measured)
	return measured, regressions, nil
}

// sectionsOf returns an expression that matches the sections of the regressions.
func sectionsOf(regressions []Regression) (*regexp.Regexp, error) {
	var names []string
	for _, f := range regressions {
		names = append(names, regexp.QuoteMeta(f.Section))
	}
	return regexp.Compile("^(" + strings.Join(names, "|") + ")$")
}

// takeBetter replaces the figures with a regression that are better in the second
// report.
func (r *Report) takeBetter(second Report, regressions []Regression) {
	for _, f := range regressions {
		sameName := func(g Figure) bool { return g.Name == f.Name }
		i, j := slices.IndexFunc(r.Figures, sameName), slices.IndexFunc(second.Figures, sameName)
		if i < 0 || j < 0 {
			continue
		}
		old, next := r.Figures[i].Ratio, second.Figures[j].Ratio
		if f.Better == Lower && next < old || f.Better == Higher && next > old {
			r.Figures[i] = second.Figures[j]
		}
	}
}

// WriteRegressions writes a table of the regressions.
func WriteRegressions(w io.Writer, regressions []Regression) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WORSE THAN RECORDED\tBETTER IS\tRECORDED\tSEEN")
	for _, f := range regressions {
		fmt.Fprintf(t, "%s\t%s\t%.3fx\t%.3fx\n", f.Name, f.Better, f.Recorded, f.Ratio)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}
