package status

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/control/api"
)

var (
	descLag = adminhttp.Desc("lag_seconds",
		"Age of the oldest acknowledged write that is not durable in the remote store.", "group")
	descLagBytes = adminhttp.Desc("lag_bytes", "Bytes acknowledged and not durable in the remote store.", "group")
	descRPO      = adminhttp.Desc("rpo_target_seconds", "The group's RPO target.", "group")
	descLast     = adminhttp.Desc("last_lsn", "Newest acknowledged LSN.", "group")
	descDurable  = adminhttp.Desc("durable_lsn", "Newest LSN in every remote target.", "group")
	descState    = adminhttp.Desc("group_state", "1 for the state that the group is in.", "group", "state")

	descMemory  = adminhttp.Desc("memory_bytes", "Acknowledged writes in memory.")
	descMemoryB = adminhttp.Desc("memory_budget_bytes", "Budget of acknowledged writes in memory.")
	descWAL     = adminhttp.Desc("wal_bytes", "Live bytes of the agent's WAL.")
	descWALB    = adminhttp.Desc("wal_budget_bytes", "Budget of the agent's WAL.")
	descWritten = adminhttp.Desc("written_bytes_total", "Payload bytes framed since the start.")
	descStored  = adminhttp.Desc("stored_bytes_total", "Encoded bytes of the frames since the start.")

	descLog     = adminhttp.Desc("journal_log_bytes", "Live bytes of the journal's Raft log.")
	descLogB    = adminhttp.Desc("journal_log_budget_bytes", "Budget of the journal's Raft log.")
	descLeader  = adminhttp.Desc("journal_leader", "1 where this member leads the journal.")
	descTerm    = adminhttp.Desc("journal_term", "Raft's term.")
	descVoters  = adminhttp.Desc("journal_voters", "Members with a vote.")
	descMembers = adminhttp.Desc("journal_members", "Members.")

	descPosition = adminhttp.Desc("target_position", "Objects in the target's log.", "target")
	descError    = adminhttp.Desc("target_error", "1 while the target does not take objects.", "target")
	descFolded   = adminhttp.Desc("target_folded_bytes_total", "Bytes of frames that were folded while catching up.",
		"target")
	descFolds     = adminhttp.Desc("target_fold_bytes_total", "Bytes of the folds that they became.", "target")
	descTargetLag = adminhttp.Desc("target_lag_seconds", "Age of the oldest frame that the target lacks.", "target")
	descBacklog   = adminhttp.Desc("target_backlog_bytes", "Bytes of the frames that the target lacks.", "target")
	descCatalog   = adminhttp.Desc("target_catalog_position",
		"Objects of the target's log that its newest catalog covers; 0 where none is known.", "target")
	descLetGo = adminhttp.Desc("target_let_go", "1 while the journal does not keep all that an optional target lacks.",
		"target")
)

// sink takes metrics.
type sink chan<- prometheus.Metric

func (s sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s sink) counter(d *prometheus.Desc, v int64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// CollectAgent makes the metrics of an agent's status.
func CollectAgent(st *api.Status, c chan<- prometheus.Metric) {
	to := sink(c)
	for i := range st.Groups {
		g := &st.Groups[i]
		to.gauge(descLag, g.LagSeconds, g.Name)
		to.gauge(descLagBytes, float64(g.LagBytes), g.Name)
		to.gauge(descRPO, g.RPOTargetSeconds, g.Name)
		if g.HasLSN() {
			to.gauge(descLast, float64(g.LastLSN), g.Name)
			to.gauge(descDurable, float64(g.DurableLSN), g.Name)
		}
		to.gauge(descState, 1, g.Name, g.State)
	}
	a := &st.Agent
	to.gauge(descMemory, float64(a.MemoryBytes))
	to.gauge(descMemoryB, float64(a.MemoryBudget))
	to.gauge(descWAL, float64(a.WALBytes))
	to.gauge(descWALB, float64(a.WALBudgetBytes))
	to.counter(descWritten, a.WrittenBytes)
	to.counter(descStored, a.StoredBytes)
	to.common(st)
}

// CollectMember makes the metrics of a journal member's status.
func CollectMember(st *api.Status, c chan<- prometheus.Metric) {
	to, j := sink(c), &st.Journal
	to.gauge(descLeader, flag(j.Leader))
	to.gauge(descTerm, float64(j.Term))
	to.gauge(descVoters, float64(j.Voters))
	to.gauge(descMembers, float64(j.Members))
	for i := range st.Targets {
		t := &st.Targets[i]
		to.gauge(descTargetLag, t.LagSeconds, t.Name)
		to.gauge(descBacklog, float64(t.BacklogBytes), t.Name)
	}
	to.common(st)
}

// common makes the metrics that both have.
func (s sink) common(st *api.Status) {
	s.gauge(descLog, float64(st.Journal.LogBytes))
	s.gauge(descLogB, float64(st.Journal.LogBudgetBytes))
	for i := range st.Targets {
		t := &st.Targets[i]
		s.gauge(descPosition, float64(t.Position), t.Name)
		s.gauge(descError, flag(t.Error != ""), t.Name)
		catalog := uint64(0)
		if t.Catalog != nil {
			catalog = t.Catalog.Position
		}
		s.gauge(descCatalog, float64(catalog), t.Name)
		s.gauge(descLetGo, flag(t.State != ""), t.Name)
		s.counter(descFolded, t.FoldedFrom, t.Name)
		s.counter(descFolds, t.FoldedTo, t.Name)
	}
	adminhttp.CollectCertificates(st.Certificates, s)
}
