package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/godwit-project/godwit/storage"
)

// figures reports on the volumes of a host at the moment of a scrape, in Prometheus' format. docs/metrics.md lists them.
type figures struct {
	store    *storage.Store
	external *storage.Externals
}

// The figures of one volume's clients.
var (
	requestsTotal = figure("volume", "requests_total", "Requests of a volume's clients that were answered, by kind: read, write, discard, flush.", "kind")
	requestErrors = figure("volume", "request_errors_total", "Requests that were answered with an error.", "kind")
	requestBytes  = figure("volume", "request_bytes_total", "Bytes read, written and discarded.", "kind")
	requestTime   = figure("volume", "request_seconds", "How long requests took until they were answered.", "kind")
	sizeBytes     = figure("volume", "size_bytes", "Size of a volume.", "role")
	allocated     = figure("volume", "allocated_bytes", "What a volume's base occupies.", "role")
	clients       = figure("volume", "clients", "Open NBD connections.", "role")
	faultsTotal   = figure("volume", "faults_total", "Faults that a volume's disk has reported, by kind.", "kind")
	trouble       = figure("volume", "trouble", "1 while a volume has a trouble, such as a disk that fails.", "role")
)

// The figures of a standing replication: of the owner's end, then of the standby's.
var (
	repLag       = figure("replication", "lag_bytes", "What the standby does not have yet.")
	repLagTime   = figure("replication", "lag_seconds", "Age of the oldest write that the standby does not have.")
	repConnected = figure("replication", "connected", "1 while the other end is connected.")
	repInMode    = figure("replication", "in_mode", "1 while the mode that was asked for holds.", "mode")
	repPoint     = figure("replication", "point_timestamp_seconds", "When the owner was where the standby is; 0 while there is no such point.")
	repThrottled = figure("replication", "throttled_writers", "Writers that are being slowed at the bounds.")
	repSlowed    = figure("replication", "throttled_seconds_total", "How long writers were slowed at the bounds.")
	repShipped   = figure("replication", "sent_bytes_total", "What went to the other site, headers and repetitions included.")
	repCopied    = figure("replication", "confirmed_bytes_total", "Content that the standby has confirmed, found equal or shipped.")
	repRate      = figure("replication", "confirmed_bytes_per_second", "Recent rate of that.")
	repResync    = figure("replication", "resyncing", "1 while the standby catches up.")
	repETA       = figure("replication", "resync_remaining_seconds", "How long that takes at the recent rate; 0 when nobody knows.")
	repOverflow  = figure("replication", "overflow", "1 when the link was down for so long that changes are only remembered.")
	repRepaired  = figure("replication", "repaired_bytes_total", "What had rotted at the owner and was put right with the standby's content.")
	repLost      = figure("replication", "lost_bytes", "What had rotted at the owner before the standby had it: it can be read at neither end until it is written anew.")

	standbyBacklog   = figure("standby", "backlog_bytes", "What is durable at the standby and not applied to its disks.")
	standbyComplete  = figure("standby", "complete", "1 when there is a consistent point.")
	standbyPoint     = figure("standby", "point_timestamp_seconds", "When the owner was where the standby is; 0 while there is no such point.")
	standbyConnected = figure("standby", "connected", "1 while the owner is connected.")
	standbyTail      = figure("standby", "tail_bytes", "What these volumes held, when they were demoted, that was never replicated: at most.")
)

// figure describes one of a subject: a volume by service and volume, the others by service.
func figure(subject, name, help string, labels ...string) *prometheus.Desc {
	by := []string{"service"}
	if subject == "volume" {
		by = []string{"volume"}
	}
	return prometheus.NewDesc("godwit_agent_"+subject+"_"+name, help, append(by, labels...), nil)
}

// Describe implements prometheus.Collector: the figures are what there is.
func (figures) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		requestsTotal, requestErrors, requestBytes, requestTime, sizeBytes, allocated, clients, trouble, faultsTotal,
		repLag, repLagTime, repConnected, repInMode, repPoint, repThrottled, repSlowed, repShipped, repCopied, repRate, repResync, repETA, repOverflow, repRepaired, repLost,
		standbyBacklog, standbyComplete, standbyPoint, standbyConnected, standbyTail,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (f figures) Collect(ch chan<- prometheus.Metric) {
	for _, st := range f.store.Volumes() {
		v, err := f.store.Volume(st.Name)
		if err != nil {
			collectVolume(ch, st, nil)
			continue
		}
		collectVolume(ch, st, v.Alerts())
		collectRequests(ch, st.Name, v.Counters())
	}
	for _, st := range f.external.List() {
		if x, err := f.external.Disk(st.Name); err == nil {
			collectVolume(ch, st, x.Alerts())
			collectRequests(ch, st.Name, x.Counters())
		}
	}
	for _, g := range f.store.Groups() {
		collectGroup(ch, g)
	}
	for _, b := range f.store.Standbys() {
		for desc, value := range map[*prometheus.Desc]float64{
			standbyBacklog: float64(b.Backlog), standbyComplete: truth(b.Complete), standbyPoint: seconds(b.PointTime),
			standbyConnected: truth(b.Connected), standbyTail: float64(b.Tail),
		} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, b.Name)
		}
	}
}

func collectVolume(ch chan<- prometheus.Metric, st storage.Status, alerts []storage.Alert) {
	for _, a := range alerts {
		ch <- prometheus.MustNewConstMetric(faultsTotal, prometheus.CounterValue, float64(a.Count), st.Name, a.Kind)
	}
	for desc, value := range map[*prometheus.Desc]float64{
		sizeBytes: float64(st.Size), allocated: float64(st.Allocated), clients: float64(st.Clients), trouble: truth(st.Err != ""),
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, st.Name, st.Role)
	}
}

func collectRequests(ch chan<- prometheus.Metric, volume string, c storage.Counters) {
	for kind, n := range map[string]storage.Counted{"read": c.Reads, "write": c.Writes, "discard": c.Discards, "flush": c.Flushes} {
		for desc, value := range map[*prometheus.Desc]uint64{requestsTotal: n.Requests, requestErrors: n.Errors, requestBytes: n.Bytes} {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), volume, kind)
		}
		upTo, buckets := uint64(0), make(map[float64]uint64)
		for i, bound := range storage.LatencyBounds {
			upTo += n.Buckets[i]
			buckets[bound.Seconds()] = upTo
		}
		ch <- prometheus.MustNewConstHistogram(requestTime, n.Requests, n.Time.Seconds(), buckets, volume, kind)
	}
}

func collectGroup(ch chan<- prometheus.Metric, g storage.GroupStatus) {
	eta := 0.0
	if g.Resyncing {
		eta = g.ETA.Seconds()
	}
	for desc, value := range map[*prometheus.Desc]float64{
		repLag: float64(g.Lag), repLagTime: g.LagTime.Seconds(), repConnected: truth(g.Connected),
		repPoint: seconds(g.PointTime), repThrottled: float64(g.Throttled), repRate: float64(g.Rate), repResync: truth(g.Resyncing),
		repETA: eta, repOverflow: truth(g.Overflow), repLost: float64(g.Lost),
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, g.Name)
	}
	ch <- prometheus.MustNewConstMetric(repInMode, prometheus.GaugeValue, truth(g.Mode == g.Wanted), g.Name, g.Wanted)
	for desc, value := range map[*prometheus.Desc]float64{
		repSlowed: g.Slowed.Seconds(), repShipped: float64(g.Shipped), repCopied: float64(g.Copied), repRepaired: float64(g.Repaired),
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, g.Name)
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if moment(t) == nil {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// serveFigures answers GET /metrics on the address, over mutual TLS, until ctx ends.
func serveFigures(ctx context.Context, address string, conf *tls.Config, kept figures) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	return answerFigures(ctx, tls.NewListener(l, conf), kept)
}

func answerFigures(ctx context.Context, l net.Listener, kept figures) error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(kept)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: patience, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %s: %w", l.Addr(), err)
	}
	return nil
}
