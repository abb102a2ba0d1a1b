package bench

import (
	"fmt"
	"io"

	"github.com/pollux-dr/pollux/internal/text"
)

// sum makes the report's medians.
func (r *FailoverReport) sum() {
	med := func(f func(*FailoverRound) float64) float64 { return median(column(r.Rounds, f)) }
	r.WarmSeconds = med(func(v *FailoverRound) float64 { return v.WarmSeconds })
	r.ColdSeconds = med(func(v *FailoverRound) float64 { return v.ColdSeconds })
	r.PauseMS = med(func(v *FailoverRound) float64 { return v.PauseMS })
	r.ParkedMS = med(func(v *FailoverRound) float64 { return v.ParkedMS })
	r.HeldMS = med(func(v *FailoverRound) float64 { return v.HeldMS })
	r.WarmCPUSeconds = med(func(v *FailoverRound) float64 { return v.WarmCPUSeconds })
	r.ColdCPUSeconds = med(func(v *FailoverRound) float64 { return v.ColdCPUSeconds })
	r.PauseCPUSeconds = med(func(v *FailoverRound) float64 { return v.PauseCPUSeconds })
	r.FailbackSeconds = med(func(v *FailoverRound) float64 { return v.FailbackSeconds })
	r.FailbackRatio = med(func(v *FailoverRound) float64 {
		return ratio(float64(v.FailbackBytes), float64(v.ChangedBytes))
	})
	r.ParkedBeyondMS = max(0, r.ParkedMS-2*r.RTTMS)
}

// Text writes the report for people.
func (r *FailoverReport) Text(w io.Writer) {
	r.text(w)
	fmt.Fprintf(w, "\na volume of %s, of which %s were written before, at random; medians of %v rounds\n\n",
		mib(r.SizeBytes), mib(r.WrittenBytes), len(r.Rounds))
	rows := [][]string{{"ROUND", "WARM", "COLD", "HAND-OVER", "PARKED", "HELD", "CPU (WARM, COLD, HAND-OVER)",
		"FAILBACK", "TRANSFERRED", "CHANGED", "RATIO"}}
	row := func(name string, v *FailoverRound, moved, changed string, part float64) {
		rows = append(rows, []string{name, fmt.Sprintf("%.2f s", v.WarmSeconds), fmt.Sprintf("%.2f s", v.ColdSeconds),
			fmt.Sprintf("%.0f ms", v.PauseMS), fmt.Sprintf("%.0f ms", v.ParkedMS), fmt.Sprintf("%.0f ms", v.HeldMS),
			fmt.Sprintf("%.2f, %.2f, %.2f s", v.WarmCPUSeconds, v.ColdCPUSeconds, v.PauseCPUSeconds),
			fmt.Sprintf("%.2f s", v.FailbackSeconds), moved, changed, fmt.Sprintf("%.2f", part)})
	}
	for i := range r.Rounds {
		v := &r.Rounds[i]
		row(fmt.Sprint(i+1), v, mib(v.FailbackBytes), mib(v.ChangedBytes),
			ratio(float64(v.FailbackBytes), float64(v.ChangedBytes)))
	}
	row("median", &FailoverRound{WarmSeconds: r.WarmSeconds, ColdSeconds: r.ColdSeconds, PauseMS: r.PauseMS,
		ParkedMS: r.ParkedMS, HeldMS: r.HeldMS, FailbackSeconds: r.FailbackSeconds, WarmCPUSeconds: r.WarmCPUSeconds,
		ColdCPUSeconds: r.ColdCPUSeconds, PauseCPUSeconds: r.PauseCPUSeconds}, "", "", r.FailbackRatio)
	text.Table(w, rows)
	if r.RTTMS > 0 {
		fmt.Fprintf(w, "\neach request of site B to the store took %.0f ms longer: what parked clients waited for in "+
			"the hand-over to A is %.0f ms more than two round trips\n", r.RTTMS, r.ParkedBeyondMS)
	}
	fmt.Fprintln(w)
	rows = [][]string{{"LOAD", "WRITTEN", "PRIMARY", "STANDBY", "RATIO", "BEHIND", "CPU s/GiB", "PRIMARY'S"}}
	for _, v := range r.Standby {
		rows = append(rows, []string{v.Name, mib(v.WrittenBytes), fmt.Sprintf("%.1f MB/s", v.PrimaryMBPerSecond),
			fmt.Sprintf("%.1f MB/s", v.StandbyMBPerSecond), fmt.Sprintf("%.2f", ratio(v.StandbyMBPerSecond,
				v.PrimaryMBPerSecond)), fmt.Sprintf("%.2f s", v.BehindSeconds), fmt.Sprintf("%.1f", v.CPUSecondsGiB),
			fmt.Sprintf("%.1f", v.PrimaryCPUGiB)})
	}
	text.Table(w, rows)
}
