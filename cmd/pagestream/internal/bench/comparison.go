package bench

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// The contenders of a comparison.
const (
	whoThis    = "this"
	whoAgainst = "against"
	whoBare    = "bare"
)

// Comparison is the result of [RunAgainst].
type Comparison struct {
	// Version is what this program's command version prints, and Against what that of
	// the other one, Binary, prints.
	Version string    `json:"version"`
	Against string    `json:"against"`
	Binary  string    `json:"binary"`
	At      time.Time `json:"at"`
	// Took is the duration of the whole run, and Cell that of a cell, in seconds.
	Took    float64 `json:"took_s"`
	Cell    float64 `json:"cell_s"`
	Rounds  int     `json:"rounds"`
	Machine Machine `json:"machine"`
	// Events is how many events each server had before the first cell. Duplicates is the
	// percentage of POSTs that repeated an earlier one.
	Events     int `json:"events"`
	Pages      int `json:"pages"`
	Contacts   int `json:"contacts"`
	Duplicates int `json:"duplicates_percent"`
	// Syncs is how syncs were counted, or why they were not.
	Syncs string `json:"syncs"`
	Rows  []Row  `json:"rows"`
	// Notes are what limits a figure or was not measured, such as refused POSTs.
	Notes []string `json:"notes"`
}

// Row is one figure of both servers and, if it has it, of the bare handler. What was
// not measured is nil.
type Row struct {
	// Name is the same in every run, such as 64c/1i/rate.
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Better is [Higher] or [Lower].
	Better  string    `json:"better"`
	This    *Measured `json:"this"`
	Against *Measured `json:"against"`
	Bare    *Measured `json:"bare"`
	// Ratio is the median of This divided by that of Against, 0 if one of them is
	// missing or 0.
	Ratio float64 `json:"ratio"`
}

// Measured are the values of a figure, in the order of the rounds, and their median.
type Measured struct {
	Median float64   `json:"median"`
	Rounds []float64 `json:"rounds"`
}

// add adds a value to a row. The row is the last one if there was none of that name.
func (c *Comparison) add(r Row, who string, value float64) {
	i := slices.IndexFunc(c.Rows, func(o Row) bool { return o.Name == r.Name })
	if i < 0 {
		i, c.Rows = len(c.Rows), append(c.Rows, r)
	}
	row := &c.Rows[i]
	m := map[string]**Measured{whoThis: &row.This, whoAgainst: &row.Against, whoBare: &row.Bare}[who]
	if *m == nil {
		*m = &Measured{}
	}
	(*m).Rounds = append((*m).Rounds, value)
	(*m).Median = median((*m).Rounds)
	if row.This != nil && row.Against != nil && row.Against.Median != 0 {
		row.Ratio = row.This.Median / row.Against.Median
	}
}

// of returns the median of a contender in a row; 0 if it was not measured.
func (c *Comparison) of(name, who string) float64 {
	for _, r := range c.Rows {
		if r.Name != name {
			continue
		}
		m := map[string]*Measured{whoThis: r.This, whoAgainst: r.Against, whoBare: r.Bare}[who]
		if m != nil {
			return m.Median
		}
	}
	return 0
}

// note adds a note once.
func (c *Comparison) note(format string, a ...any) {
	if text := fmt.Sprintf(format, a...); !slices.Contains(c.Notes, text) {
		c.Notes = append(c.Notes, text)
	}
}

// median returns the middle of the values, or the mean of the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// WriteTable writes the comparison as a text table of medians.
func (c Comparison) WriteTable(w io.Writer) error {
	m := c.Machine
	fmt.Fprintf(w, "%d CPUs, %s/%s; append and fsync of 4 KiB: p50 %.0f us, p99 %.0f us\n",
		m.CPUs, m.OS, m.Arch, m.FsyncP50, m.FsyncP99)
	fmt.Fprintf(w, "THIS is %s; AGAINST is %s, %s; BARE only checks the signature and answers\n",
		c.Version, c.Binary, c.Against)
	fmt.Fprintf(w, "%d rounds of %g s in turns, on %d events of %d pages and %d contacts; %d %% of the POSTs are repeated\n",
		c.Rounds, c.Cell, c.Events, c.Pages, c.Contacts, c.Duplicates)
	fmt.Fprintf(w, "syncs: %s\n\n", c.Syncs)
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tUNIT\tTHIS\tAGAINST\tTHIS/AGAINST\tBETTER IS\tBARE")
	for _, r := range c.Rows {
		ratio := "-"
		if r.Ratio != 0 {
			ratio = number(r.Ratio) + "x"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Name, r.Unit, r.This.cell(), r.Against.cell(), ratio, r.Better, r.Bare.cell())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	fmt.Fprintln(w)
	for _, n := range c.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	_, err := fmt.Fprintf(w, "in %s\n", time.Duration(c.Took*float64(time.Second)).Round(time.Second))
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// cell returns the median as the table shows it, "-" if it was not measured.
func (m *Measured) cell() string {
	if m == nil {
		return "-"
	}
	return number(m.Median)
}
