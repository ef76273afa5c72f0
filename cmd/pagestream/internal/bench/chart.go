package bench

import (
	"bytes"
	"fmt"
	"io"
	"math"
)

// The dimensions of the chart in pixels.
const (
	chartWidth, chartHeight = 960, 380
	panelTop, panelHeight   = 84, 220
	panelBottom             = panelTop + panelHeight
	panelLeft, panelWidth   = 64, 250
	panelStep               = 300
)

// series are the lines of each panel, all in microseconds, in the order of their
// legend.
var series = []struct {
	name, label string
	of          func(Point) float64
}{
	{"ingest", "ingest, an event", func(p Point) float64 { return p.Ingest }},
	{"project", "all read models, an event", func(p Point) float64 { return p.Project }},
	{"read", "read, median", func(p Point) float64 { return p.Read }},
}

// panels are the panels of the chart, from left to right, by what grows.
var panels = []struct {
	grows, label string
	of           func(Point) float64
}{
	{growsStream, "events in the stream", func(p Point) float64 { return float64(p.Events) }},
	{growsPages, "pages", func(p Point) float64 { return float64(p.Pages) }},
	{growsContacts, "contacts", func(p Point) float64 { return float64(p.Contacts) }},
}

// WriteChart writes an SVG chart of the costs of an event and of a read as the
// stream, the pages and the contacts grow, relative to the cost at the smallest size.
func (r Report) WriteChart(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, chartHead, chartWidth, chartHeight)
	for i, s := range series {
		x := panelLeft + i*240
		fmt.Fprintf(&b, `<path class="line %s" d="M%d 52h34"/><text x="%d" y="56" dx="42">%s</text>`+"\n",
			s.name, x, x, s.label)
	}
	fmt.Fprintf(&b, `<text transform="translate(18 %d) rotate(-90)" text-anchor="middle">`+
		"times the cost at the smallest size</text>\n", panelTop+panelHeight/2)
	top := r.highest()
	for i, p := range panels {
		drawPanel(&b, panelLeft+i*panelStep, top, p.label, r.points(p.grows), p.of)
	}
	b.WriteString("</svg>\n")
	if _, err := b.WriteTo(w); err != nil {
		return fmt.Errorf("draw chart: %w", err)
	}
	return nil
}

// points returns the points of a panel, smallest first.
func (r Report) points(grows string) []Point {
	var out []Point
	for _, p := range r.Growth {
		if p.Grows == grows {
			out = append(out, p)
		}
	}
	return out
}

// highest returns the top of the vertical axis of all panels: the highest relative
// cost, rounded up.
func (r Report) highest() float64 {
	top := 2.0
	for _, p := range panels {
		points := r.points(p.grows)
		for _, s := range series {
			for _, point := range points {
				top = max(top, relative(s.of(point), s.of(points[0])))
			}
		}
	}
	return math.Ceil(top)
}

// relative returns cost divided by first, 1 if one of them is missing.
func relative(cost, first float64) float64 {
	if first <= 0 || cost <= 0 {
		return 1
	}
	return cost / first
}

// drawPanel draws the axes and lines of a panel. The values of its horizontal,
// logarithmic axis are those of the function of.
func drawPanel(b *bytes.Buffer, left int, top float64, label string, points []Point, of func(Point) float64) {
	y := func(v float64) float64 { return round(panelTop + panelHeight*(1-v/top)) }
	drawn := math.Inf(1)
	for _, v := range []float64{0, 1, top / 2, top} {
		if drawn-y(v) < 12 {
			continue // the label would overlap the one below
		}
		drawn = y(v)
		fmt.Fprintf(b, `<line class="grid" x1="%d" y1="%g" x2="%d" y2="%g"/>`, left, drawn, left+panelWidth, drawn)
		fmt.Fprintf(b, `<text x="%d" y="%g" dx="-6" dy="4" text-anchor="end">%gx</text>`+"\n", left, drawn, v)
	}
	fmt.Fprintf(b, `<path class="axis" fill="none" d="M%d %dV%dH%d"/>`+"\n", left, panelTop, panelBottom, left+panelWidth)
	x := func(p Point) float64 {
		low, high := of(points[0]), of(points[len(points)-1])
		if high <= low {
			return float64(left + panelWidth/2)
		}
		return round(float64(left) + 12 + (panelWidth-24)*math.Log(of(p)/low)/math.Log(high/low))
	}
	for _, p := range points {
		fmt.Fprintf(b, `<text x="%g" y="%d" dy="18" text-anchor="middle">%s</text>`+"\n",
			x(p), panelBottom, short(of(p)))
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" dy="42" text-anchor="middle">%s (logarithmic)</text>`+"\n",
		left+panelWidth/2, panelBottom, label)
	if len(points) == 0 {
		return
	}
	for _, s := range series {
		var line, dots bytes.Buffer
		for _, p := range points {
			at := y(relative(s.of(p), s.of(points[0])))
			fmt.Fprintf(&line, "%g,%g ", x(p), at)
			fmt.Fprintf(&dots, `<circle class="%s" cx="%g" cy="%g" r="3"><title>%s: %s us at %s %s</title></circle>`+"\n",
				s.name, x(p), at, s.label, number(s.of(p)), short(of(p)), label)
		}
		fmt.Fprintf(b, `<polyline class="line %s" points="%s"/>`+"\n%s", s.name, &line, &dots)
	}
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// short formats 1000000 as 1M.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%g", v)
}

// chartHead is the start of the SVG. Its colours are distinguishable on white and on
// black, and lines have different dashes for people who don't see colours.
const chartHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-labelledby="title">
<title id="title">Cost of an event and of a read as stream, pages and contacts grow, ` +
	`by the cost at the smallest size</title>
<style>
svg { --ink: #1f2328; --faint: #d0d7de; --ingest: #0969da; --project: #bc4c00; --read: #1a7f37; background: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --faint: #3d444d; ` +
	`--ingest: #58a6ff; --project: #f0883e; --read: #3fb950; background: #0d1117; } }
text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.axis { stroke: var(--ink); } .grid { stroke: var(--faint); }
.line { fill: none; stroke-width: 2; }
.ingest { stroke: var(--ingest); } .project { stroke: var(--project); stroke-dasharray: 8 3; } ` +
	`.read { stroke: var(--read); stroke-dasharray: 2 3; }
circle { fill: var(--ink); stroke-dasharray: none !important; stroke-width: 2; }
</style>
<text x="64" y="28" font-weight="bold">Cost by the cost at the smallest size (1x is no growth)</text>
`
