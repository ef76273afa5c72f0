package server

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/leads"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/webhook"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// maxPageSeries is the maximum number of time series of one metric with a page label.
const maxPageSeries = 2000

// metrics are the process's Prometheus metrics. Label values are app names, event types,
// projection names and page ids, but never contacts.
type metrics struct {
	registry *prometheus.Registry

	requests   *prometheus.CounterVec
	answer     *prometheus.HistogramVec
	stored     *prometheus.CounterVec
	duplicates *prometheus.CounterVec
	publish    *prometheus.HistogramVec
	batch      prometheus.Histogram

	graphCalls   *prometheus.CounterVec
	graphRetries *prometheus.CounterVec
	graphTook    *prometheus.HistogramVec

	leads  *prometheus.CounterVec
	panics prometheus.Counter
}

func newMetrics() *metrics {
	reg := prometheus.NewRegistry()
	auto := promauto.With(reg)
	fast := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return auto.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return auto.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &metrics{
		registry: reg,
		requests: counter("pagestream_webhook_requests_total", "Webhook requests by app, method, status and reason.",
			"app", "method", "status", "reason"),
		answer: histogram("pagestream_webhook_answer_seconds",
			"Time from request to answer, deliveries only.", fast, "status"),
		stored: counter("pagestream_events_stored_total", "Events stored from deliveries, by type.", "type"),
		duplicates: counter("pagestream_duplicates_total",
			"Items not stored again, by type and by what found the duplicate.", "type", "by"),
		publish: histogram("pagestream_publish_seconds", "Time for the stream to make one batch durable.", fast, "mode"),
		batch: auto.NewHistogram(prometheus.HistogramOpts{
			Name: "pagestream_publish_batch_events", Help: "Events in one publish to the stream.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000},
		}),
		graphCalls: counter("pagestream_graph_calls_total",
			"Graph calls by method, edge, HTTP status (0: no answer) and Graph's error code.",
			"method", "edge", "status", "code"),
		graphRetries: counter("pagestream_graph_retries_total", "Retries of Graph calls.", "edge"),
		graphTook: histogram("pagestream_graph_call_seconds", "Duration of the last try of a Graph call.",
			[]float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}, "edge"),
		leads: counter("pagestream_leads_total", "Attempts to retrieve the answers of a lead, by result.", "result"),
		panics: auto.NewCounter(prometheus.CounterOpts{
			Name: "pagestream_panics_total", Help: "Panics of HTTP handlers; the log has their stacks.",
		}),
	}
	for _, r := range leads.Results() {
		m.leads.WithLabelValues(string(r)) // so that an alert has a value before the first attempt
	}
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// handler serves the metrics.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// answered counts one answered webhook request, and the items of a stored one.
func (m *metrics) answered(a webhook.Answer) {
	method, status := a.Method, strconv.Itoa(a.Status)
	switch method {
	case http.MethodGet, http.MethodPost:
	default:
		method = "other" // arbitrary methods must not create time series
	}
	m.requests.WithLabelValues(a.App, method, status, a.Reason).Inc()
	if method == http.MethodPost {
		m.answer.WithLabelValues(status).Observe(a.Took.Seconds())
	}
	for i, e := range a.Events {
		if d := a.Receipts[i].Duplicate; d != streams.NotDuplicate {
			m.duplicates.WithLabelValues(string(e.Type), d.String()).Inc()
		} else {
			m.stored.WithLabelValues(string(e.Type)).Inc()
		}
	}
}

// published observes one publish of the committer.
func (m *metrics) published(o streams.BatchObservation) {
	mode := "single"
	if o.Atomic {
		mode = "batch"
	}
	m.publish.WithLabelValues(mode).Observe(o.Took.Seconds())
	m.batch.Observe(float64(o.Size))
}

// graphCalled counts one Graph call.
func (m *metrics) graphCalled(o graph.Observation) {
	m.graphCalls.WithLabelValues(o.Method, o.Edge, strconv.Itoa(o.Status), strconv.Itoa(o.Code)).Inc()
	m.graphRetries.WithLabelValues(o.Edge).Add(float64(o.Retries))
	m.graphTook.WithLabelValues(o.Edge).Observe(o.Took.Seconds())
}

// leadTried counts one attempt to retrieve a lead.
func (m *metrics) leadTried(r leads.Result) { m.leads.WithLabelValues(string(r)).Inc() }

// registerCollector adds the metrics that are read at each scrape.
func (m *metrics) registerCollector(p *Program) { m.registry.MustRegister(collector{p}) }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	lagDesc    = desc("pagestream_projection_lag_events", "Events that the projection has not applied yet.", "projection")
	lagAgeDesc = desc("pagestream_projection_lag_seconds",
		"How long the projection has been behind the head.", "projection")
	droppedDesc = desc("pagestream_projection_duplicates_total",
		"Duplicates in the stream that the projection dropped.", "projection")
	malformedDesc = desc("pagestream_projection_malformed_total",
		"Messages in the stream that are not valid events.", "projection")
	parkedDesc = desc("pagestream_projection_parked_events",
		"Dead letters of the projection, and the events that wait behind them.", "projection")
	damagedDesc = desc("pagestream_projection_damaged",
		"1 while the read model can't be read because its file was damaged.", "projection")
	ageDesc   = desc("pagestream_page_last_event_age_seconds", "Time since the page's last event was stored.", "page")
	usageDesc = desc("pagestream_graph_usage_percent",
		"Used percentage of the rate limit, as reported by Graph, by app and page.", "app", "page", "type")
	regainDesc   = desc("pagestream_graph_regain_seconds", "Time until Graph accepts calls again.", "app", "page", "type")
	stateDesc    = desc("pagestream_pages", "Pages by state, as shown by doctor, console and status.", "state")
	severityDesc = desc("pagestream_page_severity",
		"Severity of the page's state: 0 fine, 1 a warning, 2 wrong.", "page")
	tokenDesc   = desc("pagestream_page_token_valid", "1 while the connected page's token is valid.", "page")
	expiresDesc = desc("pagestream_page_token_expires_timestamp_seconds",
		"When the token or the data access expires; absent if never.", "page")
	subscribedDesc = desc("pagestream_page_subscription_confirmed",
		"1 while Graph's own list of the page had every wanted field when it was last read.", "page")
	silentDesc = desc("pagestream_page_silent",
		"1 while the page sends no events although its rhythm predicts some.", "page")
	allSilentDesc = desc("pagestream_all_pages_silent", "1 while nearly all pages are silent at once.")
	historyDesc   = desc("pagestream_history_lost_total", "Verbs of operators that could not be put on record.")
	spaceUsedDesc = desc("pagestream_space_used_bytes",
		"Used bytes of a limit: streams.max_store, streams.max_bytes, nats.url, or the disk of data.dir or projections.dir.",
		"limit")
	spaceMaxDesc   = desc("pagestream_space_max_bytes", "The limit; of a disk, what is used here and what is free.", "limit")
	spaceLevelDesc = desc("pagestream_space_level",
		"The level that the use of a limit has reached: 0, 80, 95, or 100 where nothing more is stored.", "limit")
	notStoringDesc = desc("pagestream_not_storing",
		"1 while deliveries can't be stored and are answered 503, or the last publish failed.")
	journalDesc = desc("pagestream_journal_waiting_events",
		"Events that are durable in the journal and not in the embedded server's stream yet.")
	journalBytesDesc = desc("pagestream_journal_bytes", "Bytes of events in the journal's files.")
	journalErrorDesc = desc("pagestream_journal_failing",
		"1 while the embedded server does not take the journal's events, or does not make them durable.")
	reconcileDesc = desc("pagestream_reconcile_total", "Actions of the reconcile loop.", "action")
)

// collector reads the read models, Graph's rate limits, the pages and the reconcile loop at each
// scrape.
type collector struct{ p *Program }

// Describe sends no descriptions. This makes the collector unchecked, because metrics by page only
// exist if there are pages.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all values and sends them as metrics.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, s := range c.p.models.Statuses() {
		gauge(lagDesc, float64(s.Lag), s.Name)
		gauge(lagAgeDesc, s.LagAge.Seconds(), s.Name)
		counter(droppedDesc, s.Dropped, s.Name)
		counter(malformedDesc, s.Malformed, s.Name)
		gauge(parkedDesc, float64(s.Parked), s.Name)
		gauge(damagedDesc, boolValue(s.Damaged != ""), s.Name)
	}
	for app, usage := range c.p.apps.Usage() {
		for _, u := range usage[:min(len(usage), maxPageSeries)] {
			gauge(usageDesc, float64(u.Percent()), app, u.Key, u.Type)
			if wait := time.Until(u.RegainAt); wait > 0 {
				gauge(regainDesc, wait.Seconds(), app, u.Key, u.Type)
			}
		}
	}
	counter(historyDesc, c.p.history.Lost())
	for _, s := range c.p.health.space.now() {
		gauge(spaceUsedDesc, float64(s.Used), s.Setting)
		gauge(spaceMaxDesc, float64(s.Max), s.Setting)
		gauge(spaceLevelDesc, float64(s.Level()), s.Setting)
	}
	if c.p.journal != nil {
		s := c.p.journal.Status()
		gauge(journalDesc, float64(s.Waiting))
		gauge(journalBytesDesc, float64(s.Bytes))
		gauge(journalErrorDesc, boolValue(s.Error != ""))
	}
	gauge(notStoringDesc, boolValue(len(c.p.health.refusals()) > 0))
	if err := c.pages(gauge); err != nil && !errors.Is(err, projections.ErrDamaged) {
		ch <- prometheus.NewInvalidMetric(stateDesc, err)
	}
	status := c.p.reconciler.Status()
	gauge(allSilentDesc, boolValue(status.AllSilent))
	for _, s := range status.Pages[:min(len(status.Pages), maxPageSeries)] {
		gauge(silentDesc, boolValue(s.Silence.Silent), string(s.Page))
	}
	n := status.Counters
	for action, n := range map[string]uint64{
		"check": n.Checks, "probe": n.Probes, "resubscribe": n.Resubscribed, "heal": n.Healed, "error": n.Errors,
	} {
		counter(reconcileDesc, n, action)
	}
}

// pages reports the state of each page. At most maxPageSeries pages have their own time series; the
// counts by state include all pages.
func (c collector) pages(gauge func(*prometheus.Desc, float64, ...string)) error {
	subs, err := subscriptions.All(c.p.models.Subscriptions())
	if err != nil {
		return err
	}
	judge, states, now, n := c.p.doctor.Judging(), map[meta.State]int{}, time.Now(), 0
	severity := map[meta.Severity]float64{meta.Warning: 1, meta.Wrong: 2}
	err = pages.Each(c.p.models.Pages(), func(p pages.Page) error {
		sub := subs.Of(p.ID, p.App)
		j := judge(p, sub)
		states[j.State]++
		if n++; n > maxPageSeries {
			return nil
		}
		page := string(p.ID)
		gauge(severityDesc, severity[j.Severity], page)
		gauge(ageDesc, now.Sub(p.Traffic.LastAt).Seconds(), page)
		if p.State != pages.Connected {
			return nil
		}
		gauge(tokenDesc, boolValue(p.Token == pages.TokenValid), page)
		gauge(subscribedDesc, boolValue(sub != nil && sub.State == subscriptions.Confirmed), page)
		if ends := p.AccessEnds(); !ends.IsZero() {
			gauge(expiresDesc, float64(ends.Unix()), page)
		}
		return nil
	})
	for state, n := range states {
		gauge(stateDesc, float64(n), string(state))
	}
	return err
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
