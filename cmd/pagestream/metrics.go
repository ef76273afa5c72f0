package main

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/reconcile"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// maxPageSeries bounds the time series of one metric that have a page as label.
const maxPageSeries = 2000

// graphMetrics count what was asked of Graph.
type graphMetrics struct {
	calls   *prometheus.CounterVec
	retries *prometheus.CounterVec
	took    *prometheus.HistogramVec
}

func newGraphMetrics(r prometheus.Registerer) *graphMetrics {
	m := &graphMetrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pagestream_graph_calls_total", Help: "Calls of Graph by what was called, HTTP status (0: no answer) and Graph's error code.",
		}, []string{"method", "edge", "status", "code"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pagestream_graph_retries_total", Help: "Further tries of calls of Graph.",
		}, []string{"edge"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "pagestream_graph_call_seconds", Help: "Time of the last try of a call of Graph.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"edge"}),
	}
	r.MustRegister(m.calls, m.retries, m.took)
	return m
}

func (m *graphMetrics) observe(o graph.Observation) {
	m.calls.WithLabelValues(o.Method, o.Edge, strconv.Itoa(o.Status), strconv.Itoa(o.Code)).Inc()
	m.retries.WithLabelValues(o.Edge).Add(float64(o.Retries))
	m.took.WithLabelValues(o.Edge).Observe(o.Took.Seconds())
}

var (
	usageDesc = prometheus.NewDesc("pagestream_graph_usage_percent",
		"How much of its rate limit Graph said is used, by app and page.", []string{"app", "page", "type"}, nil)
	regainDesc = prometheus.NewDesc("pagestream_graph_regain_seconds",
		"Until calls are accepted again.", []string{"app", "page", "type"}, nil)
	tokenDesc = prometheus.NewDesc("pagestream_page_token_valid",
		"1 while the connected page's token is valid.", []string{"page"}, nil)
	expiresDesc = prometheus.NewDesc("pagestream_page_token_expires_timestamp_seconds",
		"When the token, or the access to data, ends; absent if never.", []string{"page"}, nil)
	subscribedDesc = prometheus.NewDesc("pagestream_page_subscription_confirmed",
		"1 while Graph's own list of the page had every wanted field when it was last read.", []string{"page"}, nil)
	silentDesc = prometheus.NewDesc("pagestream_page_silent",
		"1 while the page brings nothing although its rhythm says it should.", []string{"page"}, nil)
	allSilentDesc = prometheus.NewDesc("pagestream_all_pages_silent",
		"1 while nearly all pages are silent at once.", nil, nil)
	reconcileDesc = prometheus.NewDesc("pagestream_reconcile_total",
		"What the reconcile loop did.", []string{"action"}, nil)
)

// pageCollector reads at each scrape how the pages are.
type pageCollector struct{ p *Program }

func (pageCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{usageDesc, regainDesc, tokenDesc, expiresDesc, subscribedDesc, silentDesc, allSilentDesc, reconcileDesc} {
		ch <- d
	}
}

func (c pageCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for app, g := range c.p.apps.clients {
		for i, u := range g.Usage() {
			if i == maxPageSeries {
				break
			}
			gauge(usageDesc, float64(u.Percent()), app, u.Key, u.Type)
			if wait := time.Until(u.RegainAt); wait > 0 {
				gauge(regainDesc, wait.Seconds(), app, u.Key, u.Type)
			}
		}
	}
	if err := c.connected(gauge); err != nil {
		ch <- prometheus.NewInvalidMetric(tokenDesc, err)
	}
	if c.p.reconciler == nil {
		return
	}
	status := c.p.reconciler.Status()
	c.silence(status, gauge)
	for action, n := range map[string]uint64{
		"check": status.Counters.Checks, "probe": status.Counters.Probes, "resubscribe": status.Counters.Resubscribed,
		"heal": status.Counters.Healed, "error": status.Counters.Errors,
	} {
		ch <- prometheus.MustNewConstMetric(reconcileDesc, prometheus.CounterValue, float64(n), action)
	}
}

func (c pageCollector) connected(gauge func(*prometheus.Desc, float64, ...string)) error {
	confirmed := map[string]bool{}
	list, _, err := subscriptions.List(c.p.model("subscriptions"), "", maxPageSeries)
	if err != nil {
		return err
	}
	for _, s := range list {
		if s.State == subscriptions.Confirmed {
			confirmed[string(s.Page)+" "+s.App] = true
		}
	}
	all, _, err := pages.List(c.p.model("pages"), "", maxPageSeries)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.State != pages.Connected {
			continue
		}
		page := string(p.ID)
		gauge(tokenDesc, one(p.Token == pages.TokenValid), page)
		gauge(subscribedDesc, one(confirmed[page+" "+p.App]), page)
		if ends := earliest(p.TokenExpires, p.DataAccessExpires); !ends.IsZero() {
			gauge(expiresDesc, float64(ends.Unix()), page)
		}
	}
	return nil
}

func (pageCollector) silence(s reconcile.Status, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(allSilentDesc, one(s.AllSilent))
	for i, p := range s.Pages {
		if i == maxPageSeries {
			return
		}
		gauge(silentDesc, one(p.Silence.Silent), string(p.Page))
	}
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// earliest is the earlier of two times, of which none may be set.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
