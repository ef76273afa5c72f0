package bench

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
)

// The chart's measures, in pixels.
const (
	chartWidth, chartHeight = 960, 380
	panelTop, panelHeight   = 84, 220
	panelLeft, panelWidth   = 64, 250
	panelStep               = 300
)

// series are the lines of each panel, in the order of their legend.
var series = []struct {
	Class, Label, Unit string
	of                 func(Point) float64
}{
	{"ingest", "ingest, an event", "us", func(p Point) float64 { return p.Ingest }},
	{"project", "all read models, an event", "us", func(p Point) float64 { return p.Project }},
	{"read", "read, median", "us", func(p Point) float64 { return p.Read }},
}

// panels are what grows, one beside the other.
var panels = []struct {
	grows, Label string
	of           func(Point) float64
}{
	{growsStream, "events in the stream", func(p Point) float64 { return float64(p.Events) }},
	{growsPages, "pages", func(p Point) float64 { return float64(p.Pages) }},
	{growsContacts, "contacts", func(p Point) float64 { return float64(p.Contacts) }},
}

type (
	chartDot struct {
		X, Y  float64
		Title string
	}
	chartLine struct {
		Class, Points string
		Dots          []chartDot
	}
	chartTick struct {
		At    float64
		Label string
	}
	chartPanel struct {
		Left, Right, Middle float64
		Label               string
		X, Y                []chartTick
		Lines               []chartLine
	}
	chartKey struct {
		X            float64
		Class, Label string
	}
	chartData struct {
		Width, Height, Top, Bottom, Half float64
		Keys                             []chartKey
		Panels                           []chartPanel
	}
)

// WriteChart draws what an event and a read cost as stream, pages and contacts
// grow, each by its cost at the smallest size, as SVG.
func (r Report) WriteChart(w io.Writer) error {
	d := chartData{Width: chartWidth, Height: chartHeight, Top: panelTop, Bottom: panelTop + panelHeight, Half: panelTop + panelHeight/2}
	for i, s := range series {
		d.Keys = append(d.Keys, chartKey{X: panelLeft + float64(i)*240, Class: s.Class, Label: s.Label})
	}
	top := r.highest()
	for i, p := range panels {
		d.Panels = append(d.Panels, r.panel(i, p.grows, p.Label, p.of, top))
	}
	if err := chart.Execute(w, d); err != nil {
		return fmt.Errorf("draw chart: %w", err)
	}
	return nil
}

// points are those of one panel, smallest first.
func (r Report) points(grows string) []Point {
	var out []Point
	for _, p := range r.Growth {
		if p.Grows == grows {
			out = append(out, p)
		}
	}
	return out
}

// highest is the top of the vertical axis, the same for all panels: a whole number
// that no cost is above.
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

// relative is a cost by the first one, 1 where there is none to compare with.
func relative(cost, first float64) float64 {
	if first <= 0 || cost <= 0 {
		return 1
	}
	return cost / first
}

func (r Report) panel(i int, grows, label string, of func(Point) float64, top float64) chartPanel {
	left := float64(panelLeft + i*panelStep)
	out := chartPanel{Left: left, Right: left + panelWidth, Middle: left + panelWidth/2, Label: label}
	y := func(v float64) float64 { return round(panelTop + panelHeight*(1-v/top)) }
	for _, v := range []float64{0, 1, top / 2, top} {
		tick := chartTick{y(v), fmt.Sprintf("%gx", v)}
		if !slices.ContainsFunc(out.Y, func(t chartTick) bool { return math.Abs(t.At-tick.At) < 12 }) {
			out.Y = append(out.Y, tick)
		}
	}
	points := r.points(grows)
	if len(points) == 0 {
		return out
	}
	low, high := of(points[0]), of(points[len(points)-1])
	x := func(v float64) float64 { // logarithmic
		if high <= low {
			return round(left + panelWidth/2)
		}
		return round(left + 12 + (panelWidth-24)*math.Log(v/low)/math.Log(high/low))
	}
	for _, p := range points {
		out.X = append(out.X, chartTick{x(of(p)), short(of(p))})
	}
	for _, s := range series {
		line := chartLine{Class: s.Class}
		for _, p := range points {
			dot := chartDot{X: x(of(p)), Y: y(relative(s.of(p), s.of(points[0])))}
			dot.Title = fmt.Sprintf("%s: %s %s at %s %s", s.Label, number(s.of(p)), s.Unit, short(of(p)), label)
			line.Points += fmt.Sprintf("%g,%g ", dot.X, dot.Y)
			line.Dots = append(line.Dots, dot)
		}
		out.Lines = append(out.Lines, line)
	}
	return out
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

// short writes 1000000 as 1M.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%gM", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%gk", v/1e3)
	}
	return fmt.Sprintf("%g", v)
}

// chart keeps to colours that are told apart on white and on black, and to dashes
// for those who don't see colours.
var chart = template.Must(template.New("chart").Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {{.Width}} {{.Height}}" role="img" aria-labelledby="title">
<title id="title">Cost of an event and of a read as stream, pages and contacts grow, by the cost at the smallest size</title>
<style>
svg { --ink: #1f2328; --faint: #d0d7de; --ingest: #0969da; --project: #bc4c00; --read: #1a7f37; background: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --faint: #3d444d; --ingest: #58a6ff; --project: #f0883e; --read: #3fb950; background: #0d1117; } }
text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.axis { stroke: var(--ink); } .grid { stroke: var(--faint); }
.line { fill: none; stroke-width: 2; }
.ingest { stroke: var(--ingest); } .project { stroke: var(--project); stroke-dasharray: 8 3; } .read { stroke: var(--read); stroke-dasharray: 2 3; }
circle { fill: var(--ink); stroke-dasharray: none !important; stroke-width: 2; }
</style>
<text x="64" y="28" font-weight="bold">Cost by the cost at the smallest size (1x is no growth)</text>
{{range .Keys}}<path class="line {{.Class}}" d="M{{.X}} 52h34"/><text x="{{.X}}" y="56" dx="42">{{.Label}}</text>
{{end}}<text transform="translate(18 {{.Half}}) rotate(-90)" text-anchor="middle">times the cost at the smallest size</text>
{{$c := .}}{{range $p := .Panels}}{{range .Y}}<line class="grid" x1="{{$p.Left}}" y1="{{.At}}" x2="{{$p.Right}}" y2="{{.At}}"/><text x="{{$p.Left}}" y="{{.At}}" dx="-6" dy="4" text-anchor="end">{{.Label}}</text>
{{end}}<path class="axis" fill="none" d="M{{.Left}} {{$c.Top}}V{{$c.Bottom}}H{{.Right}}"/>
{{range .X}}<text x="{{.At}}" y="{{$c.Bottom}}" dy="18" text-anchor="middle">{{.Label}}</text>
{{end}}<text x="{{.Middle}}" y="{{$c.Bottom}}" dy="42" text-anchor="middle">{{.Label}} (logarithmic)</text>
{{range .Lines}}<polyline class="line {{.Class}}" points="{{.Points}}"/>
{{$l := .}}{{range .Dots}}<circle class="{{$l.Class}}" cx="{{.X}}" cy="{{.Y}}" r="3"><title>{{.Title}}</title></circle>
{{end}}{{end}}{{end}}</svg>
`))
