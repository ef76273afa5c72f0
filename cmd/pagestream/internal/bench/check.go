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

// Tolerance is how much worse than recorded a ratio may be.
const Tolerance = 0.30

// rounding keeps a ratio that is worse by exactly the tolerance from failing by
// the last bit of it.
const rounding = 1e-9

// ErrFell says that a ratio is worse than recorded by more than the tolerance.
var ErrFell = errors.New("slower than recorded")

// Fall is a figure whose ratio is worse than it was.
type Fall struct {
	Figure
	Recorded float64
}

// Check compares the ratios that both reports have, in the order of the second,
// and returns those that are worse by more than the tolerance, and how many it
// compared.
func Check(recorded, seen Report) (falls []Fall, compared int) {
	was := make(map[string]Figure, len(recorded.Figures))
	for _, f := range recorded.Figures {
		was[f.Name] = f
	}
	for _, f := range seen.Figures {
		old, known := was[f.Name]
		if !known || f.Ungated || old.Ungated || old.Ratio <= 0 || old.Better != f.Better {
			continue
		}
		compared++
		if worse(old.Ratio, f.Ratio, f.Better) {
			falls = append(falls, Fall{f, old.Ratio})
		}
	}
	return falls, compared
}

func worse(recorded, seen float64, better string) bool {
	if better == Lower {
		return seen > recorded*(1+Tolerance)+rounding
	}
	return seen < recorded*(1-Tolerance)-rounding
}

// Gate measures and checks against a recorded report. What fell is measured a
// second time, and the better of the two counts: on a machine that does other
// things too, a fall that does not come again was not the program's.
func Gate(ctx context.Context, o Options, recorded Report) (Report, []Fall, error) {
	seen, err := Run(ctx, o)
	if err != nil {
		return seen, nil, err
	}
	falls, compared := Check(recorded, seen)
	if compared == 0 {
		return seen, nil, errors.New("the recorded report has none of the figures that were measured")
	}
	if len(falls) == 0 {
		return seen, nil, nil
	}
	if o.Only, err = sectionsOf(falls); err != nil {
		return seen, falls, err
	}
	again, err := Run(ctx, o)
	if err != nil {
		return seen, falls, fmt.Errorf("measure again: %w", err)
	}
	seen.better(again, falls)
	seen.Took += again.Took
	falls, _ = Check(recorded, seen)
	return seen, falls, nil
}

// sectionsOf chooses the sections that measured the falls.
func sectionsOf(falls []Fall) (*regexp.Regexp, error) {
	var names []string
	for _, f := range falls {
		names = append(names, regexp.QuoteMeta(f.Section))
	}
	return regexp.Compile("^(" + strings.Join(names, "|") + ")$")
}

// better takes over those figures that fell and were better the second time.
func (r *Report) better(again Report, falls []Fall) {
	for _, f := range falls {
		is := func(g Figure) bool { return g.Name == f.Name }
		i, j := slices.IndexFunc(r.Figures, is), slices.IndexFunc(again.Figures, is)
		if i < 0 || j < 0 {
			continue
		}
		if old, next := r.Figures[i].Ratio, again.Figures[j].Ratio; f.Better == Lower && next < old || f.Better == Higher && next > old {
			r.Figures[i] = again.Figures[j]
		}
	}
}

// WriteFalls lists what fell.
func WriteFalls(w io.Writer, falls []Fall) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "WORSE THAN RECORDED\tBETTER IS\tRECORDED\tSEEN")
	for _, f := range falls {
		fmt.Fprintf(t, "%s\t%s\t%.3fx\t%.3fx\n", f.Name, f.Better, f.Recorded, f.Ratio)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}
