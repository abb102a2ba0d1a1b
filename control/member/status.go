package member

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/control/verbs"
)

// service carries out the verbs of a member's control socket.
type service struct {
	verbs.Members
	verbs.Common
}

var _ api.JournalService = service{}

// common has the verbs that a member has in common with an agent. Of groups and targets it
// knows what the journal does, and the targets' errors only while it leads.
func (d *Daemon) common() verbs.Common {
	return verbs.Common{Journal: d.journal, Auditor: d.audit, Own: func(m *status.Model) {
		m.Version, m.Uptime = d.version, time.Since(d.start)
		m.Certificates = adminhttp.Certificates(d.conf.Certificates(), m.Now)
	}}
}

// metrics are served at /metrics.
type metrics struct {
	d     *Daemon
	store *adminhttp.StoreMetrics
	syncs prometheus.Histogram
}

func newMetrics(d *Daemon) *metrics {
	return &metrics{d: d,
		store: adminhttp.NewStoreMetrics(),
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pollux_wal_sync_seconds",
			Help:        "Duration of fdatasync of the journal's Raft log.",
			ConstLabels: prometheus.Labels{"log": "journal"}, Buckets: prometheus.ExponentialBuckets(0.000125, 2, 15)}),
	}
}

func (m *metrics) observeSync(took time.Duration) { m.syncs.Observe(took.Seconds()) }

// Describe and Collect make metrics a prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect makes them of Status.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.store.Collect(c)
	m.syncs.Collect(c)
	st := m.d.common().Model().Status()
	status.CollectMember(&st, c)
}
