package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// metrics are served at /metrics. Gauges are taken from Status when asked.
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
		store:     adminhttp.NewStoreMetrics(),
		syncs:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pollux_wal_sync_seconds", Help: "Duration of fdatasync of the agent's WAL and the journal's Raft log.", Buckets: prometheus.ExponentialBuckets(0.000125, 2, 15)}, []string{"log"}),
		nbdOps:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_requests_total", Help: "NBD requests by command."}, []string{"command"}),
		nbdBytes:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_bytes_total", Help: "Bytes of NBD requests by command."}, []string{"command"}),
		nbdErrors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pollux_nbd_errors_total", Help: "NBD requests answered with an error, by command."}, []string{"command"}),
	}
	for _, c := range []string{"read", "write", "flush", "trim", "cache", "write_zeroes", "block_status"} {
		m.counters[c] = nbdCounters{m.nbdOps.WithLabelValues(c), m.nbdBytes.WithLabelValues(c), m.nbdErrors.WithLabelValues(c)}
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

var (
	descLag      = adminhttp.Desc("lag_seconds", "Age of the oldest acknowledged write that is not durable in the remote store.", "group")
	descLagBytes = adminhttp.Desc("lag_bytes", "Bytes acknowledged and not durable in the remote store.", "group")
	descRPO      = adminhttp.Desc("rpo_target_seconds", "The group's RPO target.", "group")
	descLast     = adminhttp.Desc("last_lsn", "Newest acknowledged LSN.", "group")
	descDurable  = adminhttp.Desc("durable_lsn", "Newest LSN in every required target.", "group")
	descState    = adminhttp.Desc("group_state", "1 for the state that the group is in.", "group", "state")
	descMemory   = adminhttp.Desc("memory_bytes", "Acknowledged writes in memory.")
	descMemoryB  = adminhttp.Desc("memory_budget_bytes", "Budget of acknowledged writes in memory.")
	descWAL      = adminhttp.Desc("wal_bytes", "Live bytes of the agent's WAL.")
	descWALB     = adminhttp.Desc("wal_budget_bytes", "Budget of the agent's WAL.")
	descLog      = adminhttp.Desc("journal_log_bytes", "Live bytes of the journal's Raft log.")
	descLogB     = adminhttp.Desc("journal_log_budget_bytes", "Budget of the journal's Raft log.")
	descPosition = adminhttp.Desc("target_position", "Objects in the target's log.", "target")
	descError    = adminhttp.Desc("target_error", "1 while the target does not take objects.", "target")
	descFolded   = adminhttp.Desc("target_folded_bytes_total", "Bytes of frames that were folded while catching up.", "target")
	descFolds    = adminhttp.Desc("target_fold_bytes_total", "Bytes of the folds that they became.", "target")
	descWritten  = adminhttp.Desc("written_bytes_total", "Payload bytes framed since the start.")
	descStored   = adminhttp.Desc("stored_bytes_total", "Encoded bytes of the frames since the start.")
)

// Describe and Collect make metrics a prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect takes the figures from Status.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.store.Collect(c)
	for _, v := range []prometheus.Collector{m.syncs, m.nbdOps, m.nbdBytes, m.nbdErrors} {
		v.Collect(c)
	}
	st, err := service{Daemon: m.d}.Status(context.Background(), struct{}{})
	if err != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, g := range st.Groups {
		gauge(descLag, g.LagSeconds, g.Name)
		gauge(descLagBytes, float64(g.LagBytes), g.Name)
		gauge(descRPO, g.RPOTargetSeconds, g.Name)
		gauge(descLast, float64(g.LastLSN), g.Name)
		gauge(descDurable, float64(g.DurableLSN), g.Name)
		gauge(descState, 1, g.Name, g.State)
	}
	for _, t := range st.Targets {
		gauge(descPosition, float64(t.Position), t.Name)
		bad := 0.0
		if t.Error != "" {
			bad = 1
		}
		gauge(descError, bad, t.Name)
		gauge(adminhttp.DescCatalog, adminhttp.CatalogPosition(t.Catalog), t.Name)
		gauge(adminhttp.DescLetGo, adminhttp.LetGo(t.State), t.Name)
		c <- prometheus.MustNewConstMetric(descFolded, prometheus.CounterValue, float64(t.FoldedFrom), t.Name)
		c <- prometheus.MustNewConstMetric(descFolds, prometheus.CounterValue, float64(t.FoldedTo), t.Name)
	}
	adminhttp.CollectCertificates(st.Certificates, c)
	gauge(descMemory, float64(st.Agent.MemoryBytes))
	gauge(descMemoryB, float64(st.Agent.MemoryBudget))
	gauge(descWAL, float64(st.Agent.WALBytes))
	gauge(descWALB, float64(st.Agent.WALBudgetBytes))
	gauge(descLog, float64(st.Journal.LogBytes))
	gauge(descLogB, float64(st.Journal.LogBudgetBytes))
	c <- prometheus.MustNewConstMetric(descWritten, prometheus.CounterValue, float64(st.Agent.WrittenBytes))
	c <- prometheus.MustNewConstMetric(descStored, prometheus.CounterValue, float64(st.Agent.StoredBytes))
}
