package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/pollux-dr/pollux/internal/text"
)

// Text writes the report for people.
func (r *WriteReport) Text(w io.Writer) {
	r.text(w)
	fmt.Fprintf(w, "memory budgets together %s; initial sync of the volume %.1f s; medians of %v rounds of %v s\n\n",
		mib(r.MemoryBudgetBytes), r.InitialSyncSeconds, r.Settings["rounds"], r.Settings["seconds"])
	rows := [][]string{{"WORKLOAD", "PROTECTED/s", "UNPROTECTED/s", "RATIO", "WITH DRAIN", "BACKLOG", "DRAIN", "MOVED",
		"NBDKIT/s", "UNPROT/NBDKIT", "AGENT CPU s/GiB"}}
	for _, c := range r.Workloads {
		kit, part := "-", "-"
		if c.NBDKitIOPS != nil {
			kit, part = fmt.Sprintf("%.0f", *c.NBDKitIOPS), fmt.Sprintf("%.2f", *c.UnprotectedOfNBDKit)
		}
		moved := mib(c.MovedBytes)
		if !c.ExceedsMemory {
			moved += " (too little)"
		}
		rows = append(rows, []string{c.Name, fmt.Sprintf("%.0f", c.ProtectedIOPS),
			fmt.Sprintf("%.0f", c.UnprotectedIOPS), fmt.Sprintf("%.2f", c.Ratio),
			fmt.Sprintf("%.2f", c.RatioWithDrain), mib(c.BacklogBytes), fmt.Sprintf("%.2f s", c.DrainSeconds), moved,
			kit, part,
			fmt.Sprintf("%.1f", c.AgentCPUSecondsGiB)})
	}
	text.Table(w, rows)
}

func (h *Header) text(w io.Writer) {
	fmt.Fprintf(w, "pollux bench %s\n", h.Benchmark)
	fmt.Fprintf(w, "machine   %s\n", h.Machine)
	fmt.Fprintf(w, "store     %s\n", h.Store)
	fmt.Fprintf(w, "seed      %d\n", h.Seed)
	fmt.Fprint(w, "settings ")
	for _, k := range slices.Sorted(maps.Keys(h.Settings)) {
		v, _ := json.Marshal(h.Settings[k])
		fmt.Fprintf(w, " %s=%s", k, v)
	}
	fmt.Fprintf(w, "\ntook      %.0f s\n", h.Seconds)
	for _, n := range h.Notes {
		fmt.Fprintf(w, "note      %s\n", n)
	}
}

// Text writes the report for people.
func (r *LagReport) Text(w io.Writer) {
	r.text(w)
	f := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	fmt.Fprintln(w)
	rows := [][]string{
		{"", "P50 ms", "P99 ms", "MAX ms", "OBJECTS"},
		{"lag, unlimited requests", f(r.LagMS.P50), f(r.LagMS.P99), f(r.LagMS.Max), fmt.Sprint(r.Unlimited.Objects)},
		{"floor: bare PUTs", f(r.FloorMS.P50), f(r.FloorMS.P99), f(r.FloorMS.Max), fmt.Sprint(r.FloorMS.Objects)},
		{"ratio", f(r.Ratio.P50), f(r.Ratio.P99), "", ""},
		{"lag, default requests", f(r.DefaultLagMS.P50), f(r.DefaultLagMS.P99), f(r.DefaultLagMS.Max),
			fmt.Sprint(r.Default.Objects)},
	}
	if v := r.Voters; v != nil {
		rows = append(rows, []string{fmt.Sprintf("lag, %d voters", v.Voters), f(v.LagMS.P50), f(v.LagMS.P99),
			f(v.LagMS.Max), fmt.Sprint(v.Run.Objects)},
			[]string{"ratio to one", f(v.Ratio.P50), f(v.Ratio.P99), "", ""})
	}
	text.Table(w, rows)
	u := r.Unlimited
	fmt.Fprintf(w, "\nunlimited run: %.0f writes/s, acknowledged in p50 %.3f p99 %.3f ms, flushes p50 %.2f p99 "+
		"%.2f ms, objects p50 %.0f p99 %.0f bytes\n",
		u.WritesPerSecond, u.AckMS.P50, u.AckMS.P99, u.FlushMS.P50, u.FlushMS.P99, u.ObjectBytesP50, u.ObjectBytesP99)
	fmt.Fprintf(w, "agent's CPU %.0f%% of one\n", u.AgentCPUPercent)
}

// Text writes the report for people.
func (r *RestoreReport) Text(w io.Writer) {
	r.text(w)
	med := func(f func(*RestoreRound) float64) float64 { return median(column(r.Rounds, f)) }
	fmt.Fprintf(w, "\nrestore   %.0f MB/s\nbare GET  %.0f MB/s\nratio     %.2f\n", r.RestoreMBPerSecond,
		r.RawGetMBPerSecond, r.Ratio)
	fmt.Fprintf(w, "image %s from %s in %d objects; equal to the volume: %v\n", mib(r.ImageBytes), mib(r.LogBytes),
		r.Objects, r.Verified)
	fmt.Fprintf(w, "of a restore: open and plan %.2f s, fetch, decode and write %.2f s, fsync %.2f s; CPU %.2f s "+
		"(bare GET %.2f s)\n",
		med(func(v *RestoreRound) float64 { return v.OpenSeconds }),
		med(func(v *RestoreRound) float64 { return v.WriteSeconds }),
		med(func(v *RestoreRound) float64 { return v.SyncSeconds }),
		med(func(v *RestoreRound) float64 { return v.RestoreCPUSeconds }),
		med(func(v *RestoreRound) float64 { return v.RawCPUSeconds }))
}
