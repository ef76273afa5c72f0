package api

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

// maxPageSeries bounds the time series that have a page as a label.
const maxPageSeries = 2000

// Metrics are the process's Prometheus metrics. Labels have app names, event
// types, projection names and page ids; never a contact.
type Metrics struct {
	Registry *prometheus.Registry

	requests   *prometheus.CounterVec
	answer     *prometheus.HistogramVec
	stored     *prometheus.CounterVec
	duplicates *prometheus.CounterVec
	publish    *prometheus.HistogramVec
	batch      prometheus.Histogram
}

// NewMetrics returns the metrics in a registry of their own.
func NewMetrics() *Metrics {
	fast := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pagestream_webhook_requests_total", Help: "Webhook requests by app, method, status and reason.",
		}, []string{"app", "method", "status", "reason"}),
		answer: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pagestream_webhook_answer_seconds", Help: "Time from request to answer, deliveries only.", Buckets: fast,
		}, []string{"status"}),
		stored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pagestream_events_stored_total", Help: "Events stored from deliveries, by type.",
		}, []string{"type"}),
		duplicates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pagestream_duplicates_total", Help: "Items not stored again, by type and by what caught them.",
		}, []string{"type", "by"}),
		publish: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pagestream_publish_seconds", Help: "Time for the stream to make one batch durable.", Buckets: fast,
		}, []string{"mode"}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pagestream_publish_batch_events", Help: "Events in one publish to the stream.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000},
		}),
	}
	m.Registry.MustRegister(m.requests, m.answer, m.stored, m.duplicates, m.publish, m.batch,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Answered counts one answered webhook request.
func (m *Metrics) Answered(app, method, reason string, status int, took time.Duration) {
	switch method {
	case "GET", "POST":
	default:
		method = "other" // outside text must not make time series
	}
	m.requests.WithLabelValues(app, method, strconv.Itoa(status), reason).Inc()
	if method == "POST" {
		m.answer.WithLabelValues(strconv.Itoa(status)).Observe(took.Seconds())
	}
}

// Stored counts one item of a stored delivery by its receipt.
func (m *Metrics) Stored(t domain.Type, d streams.Duplicate) {
	if d == streams.NotDuplicate {
		m.stored.WithLabelValues(string(t)).Inc()
		return
	}
	m.duplicates.WithLabelValues(string(t), d.String()).Inc()
}

// Published observes one publish of the committer.
func (m *Metrics) Published(events int, atomic bool, took time.Duration) {
	mode := "single"
	if atomic {
		mode = "batch"
	}
	m.publish.WithLabelValues(mode).Observe(took.Seconds())
	m.batch.Observe(float64(events))
}

// Watch adds what is read at each scrape: every projection's lag and drops,
// and the age of each page's last event.
func (m *Metrics) Watch(pagesModel Model, runners func() []projections.Status) {
	m.Registry.MustRegister(&modelCollector{pages: pagesModel, runners: runners})
}

var (
	lagDesc = prometheus.NewDesc("pagestream_projection_lag_events",
		"Events that the projection has not applied yet.", []string{"projection"}, nil)
	lagAgeDesc = prometheus.NewDesc("pagestream_projection_lag_seconds",
		"How long the projection has been behind the head.", []string{"projection"}, nil)
	droppedDesc = prometheus.NewDesc("pagestream_projection_duplicates_total",
		"Duplicates in the stream that the projection dropped.", []string{"projection"}, nil)
	malformedDesc = prometheus.NewDesc("pagestream_projection_malformed_total",
		"Messages in the stream that are no events of ours.", []string{"projection"}, nil)
	parkedDesc = prometheus.NewDesc("pagestream_projection_parked_events",
		"Dead letters of the projection, and what waits behind them.", []string{"projection"}, nil)
	ageDesc = prometheus.NewDesc("pagestream_page_last_event_age_seconds",
		"Time since the page's last event was stored.", []string{"page"}, nil)
)

type modelCollector struct {
	pages   Model
	runners func() []projections.Status
}

func (c *modelCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagDesc, lagAgeDesc, droppedDesc, malformedDesc, parkedDesc, ageDesc} {
		ch <- d
	}
}

func (c *modelCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.runners() {
		ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(s.Lag), s.Name)
		ch <- prometheus.MustNewConstMetric(lagAgeDesc, prometheus.GaugeValue, s.LagAge.Seconds(), s.Name)
		ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(s.Dropped), s.Name)
		ch <- prometheus.MustNewConstMetric(malformedDesc, prometheus.CounterValue, float64(s.Malformed), s.Name)
		ch <- prometheus.MustNewConstMetric(parkedDesc, prometheus.GaugeValue, float64(s.Parked), s.Name)
	}
	list, _, err := pages.List(c.pages, "", maxPageSeries)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(ageDesc, err)
		return
	}
	now := time.Now()
	for _, p := range list {
		ch <- prometheus.MustNewConstMetric(ageDesc, prometheus.GaugeValue, now.Sub(p.Traffic.LastAt).Seconds(), string(p.ID))
	}
}
