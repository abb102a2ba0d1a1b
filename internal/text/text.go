package text

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// Bytes is a size with a binary unit.
func Bytes(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n), -1
	for v >= step && i < 5 {
		v /= step
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[i])
}

// Duration is a time span in the unit that fits it.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Table writes rows in columns, each cell on one line. Errors of w are for its owner to
// find.
func Table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, r := range rows {
		for i, cell := range r {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, Line(cell))
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush()
}
