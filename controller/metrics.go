package controller

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
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

// volumeLabels tell copies apart: two hosts of a site may have a volume, one of which was to remove it and has not yet.
var volumeLabels = []string{"volume", "site", "host", "role", "mode"}

var (
	agentUp = prometheus.NewDesc("godwit_agent_up", "1 while the agent has a session.", []string{"agent", "kind", "site"}, nil)
	service = prometheus.NewDesc("godwit_service_info", "1 for each service, with where and how it is.", []string{"service", "site", "host", "phase"}, nil)
	lag     = prometheus.NewDesc("godwit_volume_lag_bytes", "What the replica of a volume does not have yet.", volumeLabels, nil)

	lagSeconds  = volumeGauge("lag_seconds", "Age of the oldest write that the standing replica does not have.")
	volumePoint = volumeGauge("point_timestamp_seconds", "When the primary was where its standing replica is; 0 while there is no such point.")
	connected   = volumeGauge("replica_connected", "1 while the other end of a standing replication is connected.")
	throttled   = volumeGauge("throttled_writers", "Writers that are being slowed at the bounds.")
	slowed      = volumeGauge("slowed_seconds_total", "How long writers were slowed.")
	overflow    = volumeGauge("overflow", "1 when the link was down for so long that changes are only remembered.")
	resyncing   = volumeGauge("resyncing", "1 while the replica catches up.")
	shipped     = volumeGauge("shipped_bytes_total", "What went over the link.")
	alerted     = volumeGauge("alert", "1 while something is to be done about a volume: godwit get volumes says what.")
	backlog     = volumeGauge("backlog_bytes", "What a replica has not applied to its disks.")
)

func volumeGauge(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("godwit_volume_"+name, help, volumeLabels, nil)
}

// collectVolume reports every figure of a volume's replication.
func collectVolume(ch chan<- prometheus.Metric, v *pb.Volume, at agentState) {
	point := 0.0
	if v.GetPointTime() != nil {
		point = float64(v.GetPointTime().AsTime().UnixMilli()) / 1000
	}
	for desc, value := range map[*prometheus.Desc]float64{
		lag: float64(v.GetLag()), lagSeconds: v.GetLagMs() / 1000, volumePoint: point, connected: truth(v.GetConnected()),
		throttled: float64(v.GetThrottled()), slowed: v.GetSlowedMs() / 1000, overflow: truth(v.GetOverflow()),
		resyncing: truth(v.GetResyncing()), alerted: truth(v.GetAlert() != ""), shipped: float64(v.GetShipped()), backlog: float64(v.GetBacklog()),
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, v.GetName(), at.Site, at.Name, v.GetRole(), v.GetMode())
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (*inventory) Describe(ch chan<- *prometheus.Desc) {
	ch <- agentUp
	ch <- service
	for _, desc := range []*prometheus.Desc{lag, lagSeconds, volumePoint, connected, throttled, slowed, overflow, resyncing, alerted, shipped, backlog} {
		ch <- desc
	}
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
				collectVolume(ch, v, a)
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
