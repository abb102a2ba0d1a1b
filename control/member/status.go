package member

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// service carries out the verbs of a member's control socket.
type service struct {
	Members
	*Auditor
	d *Daemon
}

var _ api.JournalService = service{}

// Status reports where the journal stands, as this member sees it: the targets'
// errors are known to the leader only.
func (s service) Status(context.Context, struct{}) (api.Status, error) {
	h := s.d.host
	j := h.Info()
	st := api.Status{Certificates: adminhttp.Certificates(s.d.conf.Certificates(), time.Now()),
		Groups: []api.GroupStatus{}, Targets: []api.TargetStatus{},
		Journal: api.JournalStatus{ID: j.Journal.String(), Leader: h.Leads(), LeaderAddress: j.Leader, Term: j.Term, Epoch: j.Epoch,
			Voters: j.Voters, Members: j.Members, LogBytes: j.LogBytes, LogBudgetBytes: j.LogBudget},
		Agent: api.AgentStatus{Version: s.d.version, UptimeSeconds: time.Since(s.d.start).Seconds()}}
	if j.Journal == uuid.Nil {
		st.Journal.ID = ""
	}
	if err := h.Err(); err != nil {
		st.Journal.Error = err.Error()
	}
	if j.Leader == "" && st.Journal.Error == "" {
		st.Journal.Error = "no leader is known: is a majority of the members up?"
	}
	for i := range j.Targets {
		st.Targets = append(st.Targets, api.TargetStatusOf(&j.Targets[i]))
	}
	var groups []state.Group
	points := map[string]change.Point{}
	durable := map[string]uint64{}
	var streams []state.Stream
	h.View(func(s *state.State) {
		for _, g := range state.Sorted(s.Groups, func(g *state.Group) string { return g.Name }) {
			groups = append(groups, *g)
		}
		for _, x := range s.Streams {
			streams = append(streams, *x)
		}
	})
	for _, x := range streams { // a group's streams are numbered each by itself: the sums only move forward
		p := points[x.Group]
		p.LSN += h.Point(x.ID).LSN
		points[x.Group] = p
		durable[x.Group] += h.Durable(x.ID)
	}
	for _, g := range groups {
		out := api.GroupStatus{Name: g.Name, Role: "primary", Ack: g.Ack, RPOTargetSeconds: g.RPOTargetSeconds,
			LastLSN: points[g.Name].LSN, DurableLSN: durable[g.Name], State: "Replicating"}
		for i := range j.Targets {
			t := &j.Targets[i]
			if !t.Optional && durable[g.Name] < points[g.Name].LSN {
				out.LagSeconds = max(out.LagSeconds, t.LagSeconds)
				out.LagBytes = max(out.LagBytes, t.BacklogBytes)
			}
			if t.Error != "" && out.Reason == "" {
				out.Reason = "target " + t.Name + ": " + t.Error
			}
		}
		if out.LagSeconds > g.RPOTargetSeconds {
			out.State = "Lagging"
		}
		if g.Paused {
			out.State = "Paused"
		}
		st.Groups = append(st.Groups, out)
	}
	return st, nil
}

// GroupList lists the groups.
func (s service) GroupList(context.Context, api.List) ([]api.Group, error) {
	out := []api.Group{}
	s.d.host.View(func(st *state.State) {
		volumes := map[string]int{}
		for _, v := range st.Volumes {
			if !v.Removed {
				volumes[v.Group]++
			}
		}
		for _, g := range state.Sorted(st.Groups, func(g *state.Group) string { return g.Name }) {
			out = append(out, api.Group{Name: g.Name, Ack: g.Ack, Overflow: g.Overflow, PITR: g.PITR,
				RPOTargetSeconds: g.RPOTargetSeconds, Paused: g.Paused, Volumes: volumes[g.Name]})
		}
	})
	return out, nil
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
		syncs: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "pollux_wal_sync_seconds", Help: "Duration of fdatasync of the journal's Raft log.",
			ConstLabels: prometheus.Labels{"log": "journal"}, Buckets: prometheus.ExponentialBuckets(0.000125, 2, 15)}),
	}
}

func (m *metrics) observeSync(took time.Duration) { m.syncs.Observe(took.Seconds()) }

var (
	descLeader  = adminhttp.Desc("journal_leader", "1 where this member leads the journal.")
	descTerm    = adminhttp.Desc("journal_term", "Raft's term.")
	descVoters  = adminhttp.Desc("journal_voters", "Members with a vote.")
	descMembers = adminhttp.Desc("journal_members", "Members.")
	descLog     = adminhttp.Desc("journal_log_bytes", "Live bytes of the journal's Raft log.")
	descLogB    = adminhttp.Desc("journal_log_budget_bytes", "Budget of the journal's Raft log.")
	descPos     = adminhttp.Desc("target_position", "Objects in the target's log.", "target")
	descError   = adminhttp.Desc("target_error", "1 while the target does not take objects.", "target")
	descLag     = adminhttp.Desc("target_lag_seconds", "Age of the oldest frame that the target lacks.", "target")
	descFolded  = adminhttp.Desc("target_folded_bytes_total", "Bytes of frames that were folded while catching up.", "target")
	descFolds   = adminhttp.Desc("target_fold_bytes_total", "Bytes of the folds that they became.", "target")
	descBacklog = adminhttp.Desc("target_backlog_bytes", "Bytes of the frames that the target lacks.", "target")
)

// Describe and Collect make metrics a prometheus.Collector.
func (m *metrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect takes the figures as they are.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	m.store.Collect(c)
	m.syncs.Collect(c)
	if m.d.host == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(on bool) float64 {
		if on {
			return 1
		}
		return 0
	}
	j := m.d.host.Info()
	gauge(descLeader, flag(m.d.host.Leads()))
	gauge(descTerm, float64(j.Term))
	gauge(descVoters, float64(j.Voters))
	gauge(descMembers, float64(j.Members))
	gauge(descLog, float64(j.LogBytes))
	gauge(descLogB, float64(j.LogBudget))
	for i := range j.Targets {
		t := &j.Targets[i]
		gauge(descPos, float64(t.Position), t.Name)
		gauge(descError, flag(t.Error != ""), t.Name)
		gauge(adminhttp.DescCatalog, adminhttp.CatalogPosition(t.Catalog), t.Name)
		gauge(adminhttp.DescLetGo, adminhttp.LetGo(t.State), t.Name)
		gauge(descLag, t.LagSeconds, t.Name)
		gauge(descBacklog, float64(t.BacklogBytes), t.Name)
		c <- prometheus.MustNewConstMetric(descFolded, prometheus.CounterValue, float64(t.FoldedFrom), t.Name)
		c <- prometheus.MustNewConstMetric(descFolds, prometheus.CounterValue, float64(t.FoldedTo), t.Name)
	}
}
