package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// metrics are served at /metrics. All but its own counters are made of the status.
type metrics struct {
	d         *Daemon
	store     *adminhttp.StoreMetrics
	syncs     *prometheus.HistogramVec
	nbdOps    *prometheus.CounterVec
	nbdBytes  *prometheus.CounterVec
	nbdErrors *prometheus.CounterVec
	counters  map[string]nbdCounters
}

type nbdCounters struct{ ops, bytes, errors prometheus.Counter }

var _ nbd.Metrics = (*metrics)(nil)

func newMetrics(d *Daemon) *metrics {
	m := &metrics{d: d, counters: map[string]nbdCounters{},
		store: adminhttp.NewStoreMetrics(),
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pollux_wal_sync_seconds",
			Help:    "Duration of fdatasync of the agent's WAL and the journal's Raft log.",
			Buckets: prometheus.ExponentialBuckets(0.000125, 2, 15)}, []string{"log"}),
		nbdOps: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_requests_total",
			Help: "NBD requests by command."}, []string{"command"}),
		nbdBytes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_bytes_total",
			Help: "Bytes of NBD requests by command."}, []string{"command"}),
		nbdErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_errors_total",
			Help: "NBD requests answered with an error, by command."}, []string{"command"}),
	}
	for _, c := range []string{"read", "write", "flush", "trim", "cache", "write_zeroes", "block_status"} {
		m.counters[c] = nbdCounters{m.nbdOps.WithLabelValues(c), m.nbdBytes.WithLabelValues(c),
			m.nbdErrors.WithLabelValues(c)}
	}
	return m
}

func (m *metrics) ConnOpened() {}
func (m *metrics) ConnClosed() {}

// Request counts one NBD request; it is on the write path.
func (m *metrics) Request(command string, lengthBytes uint32, _ time.Duration, ok bool) {
	c, known := m.counters[command]
	if !known {
		return
	}
	c.ops.Inc()
	c.bytes.Add(float64(lengthBytes))
	if !ok {
		c.errors.Inc()
	}
}

func (m *metrics) observeSync(log string) func(time.Duration) {
	h := m.syncs.WithLabelValues(log)
	return func(took time.Duration) { h.Observe(took.Seconds()) }
}

// Describe and Collect make metrics a prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect makes them of Status.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.store.Collect(c)
	for _, v := range []prometheus.Collector{m.syncs, m.nbdOps, m.nbdBytes, m.nbdErrors} {
		v.Collect(c)
	}
	st := m.d.common().Model().Status()
	status.CollectAgent(&st, c)
}
