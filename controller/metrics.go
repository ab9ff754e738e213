package controller

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/migration"
)

// metrics are what an operator would graph, in Prometheus' format at /metrics, for operators and viewers.
type metrics struct {
	registry *prometheus.Registry
	ended    *prometheus.CounterVec
	phases   *prometheus.HistogramVec
	blackout prometheus.Histogram
	wan      prometheus.Counter
}

func newMetrics(f *front) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_migrations_total", Help: "Migrations that have ended, by outcome.",
		}, []string{"outcome"}),
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "godwit_migration_phase_seconds", Help: "How long migrations stayed in each phase.",
			Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
		}, []string{"phase"}),
		blackout: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "godwit_migration_blackout_seconds", Help: "From the last instruction at the source to the first at the destination.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}),
		wan: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "godwit_migration_wan_bytes_total", Help: "Bytes that migrations sent between sites.",
		}),
	}
	m.registry.MustRegister(m.ended, m.phases, m.blackout, m.wan, &inventory{front: f})
	return m
}

// observe counts a migration that has ended.
func (m *metrics) observe(rec migrationRecord) {
	m.ended.WithLabelValues(string(rec.State.Phase)).Inc()
	times := rec.State.PhaseTimes
	for i := range times[:max(len(times)-1, 0)] {
		m.phases.WithLabelValues(string(times[i].Phase)).Observe(times[i+1].Entered.Sub(times[i].Entered).Seconds())
	}
	f, err := figuresOf(rec, rec.Ended)
	if err != nil {
		return
	}
	m.wan.Add(float64(f.GetWanBytes()))
	if rec.State.Phase == migration.Completed && f.GetBlackoutMs() > 0 {
		m.blackout.Observe(f.GetBlackoutMs() / 1000)
	}
}

func (m *metrics) handler() http.Handler {
	next := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := requireRole(r.Context(), identity.Operator, identity.Viewer); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// inventory reports what is there at the moment of a scrape.
type inventory struct {
	front *front
}

var (
	agentUp = prometheus.NewDesc("godwit_agent_up", "1 while the agent has a session.", []string{"agent", "kind", "site"}, nil)
	service = prometheus.NewDesc("godwit_service_info", "1 for each service, with where and how it is.", []string{"service", "site", "host", "phase"}, nil)
	lag     = prometheus.NewDesc("godwit_volume_lag_bytes", "What the replica of a volume does not have yet.", []string{"volume", "site", "role", "mode"}, nil)
)

// Describe implements prometheus.Collector.
func (*inventory) Describe(ch chan<- *prometheus.Desc) {
	ch <- agentUp
	ch <- service
	ch <- lag
}

// Collect implements prometheus.Collector.
func (i *inventory) Collect(ch chan<- prometheus.Metric) {
	const patience = 3 * time.Second
	ctx, cancel := context.WithTimeout(i.front.services.work, patience)
	defer cancel()
	agents, err := i.front.services.agents.all(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(agentUp, err)
		return
	}
	for _, a := range agents {
		up := 0.0
		if a.Ready {
			up = 1
		}
		ch <- prometheus.MustNewConstMetric(agentUp, prometheus.GaugeValue, up, a.Name, a.Kind, a.Site)
		for _, h := range a.Holdings {
			for _, v := range h.GetVolumes() {
				ch <- prometheus.MustNewConstMetric(lag, prometheus.GaugeValue, float64(v.GetLag()), v.GetName(), a.Site, v.GetRole(), v.GetMode())
			}
		}
	}
	services, err := i.front.listServices(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(service, err)
		return
	}
	for _, o := range services {
		s := o.GetService()
		ch <- prometheus.MustNewConstMetric(service, prometheus.GaugeValue, 1, s.GetSpec().GetName(), s.GetStatus().GetSite(), s.GetStatus().GetHost(), s.GetStatus().GetPhase())
	}
}
