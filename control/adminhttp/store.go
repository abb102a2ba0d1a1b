package adminhttp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/replicator/objstore"
)

// StoreMetrics count the requests to object stores.
type StoreMetrics struct {
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewStoreMetrics makes them; Collect hands them out.
func NewStoreMetrics() *StoreMetrics {
	return &StoreMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_store_requests_total",
			Help: "Requests to object stores by target, kind and outcome."}, []string{"target", "request", "outcome"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_store_bytes_total",
			Help: "Bytes sent to or read from object stores."}, []string{"target", "request"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pollux_store_request_seconds",
			Help: "Duration of requests to object stores.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)},
			[]string{"target", "request"}),
	}
}

// Observe returns what is told of a target's requests.
func (m *StoreMetrics) Observe(target string) func(objstore.Request) {
	return func(r objstore.Request) {
		m.requests.WithLabelValues(target, r.Op, r.Outcome).Inc()
		m.bytes.WithLabelValues(target, r.Op).Add(float64(r.Bytes))
		m.seconds.WithLabelValues(target, r.Op).Observe(r.Seconds)
	}
}

// Collect sends the metrics to c.
func (m *StoreMetrics) Collect(c chan<- prometheus.Metric) {
	m.requests.Collect(c)
	m.bytes.Collect(c)
	m.seconds.Collect(c)
}

// Desc describes a metric of Pollux.
func Desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pollux_"+name, help, labels, nil)
}
