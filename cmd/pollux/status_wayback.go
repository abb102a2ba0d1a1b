package main

import (
	"fmt"
	"io"
	"time"

	"github.com/pollux-dr/pollux/control/api"
)

// printWayBack says that a hand-over is neither committed nor rolled back.
func printWayBack(w io.Writer, b *api.WayBack) {
	if b == nil {
		return
	}
	fmt.Fprintf(w, "the way back to %s (host %s) is open until pollux failover --commit; handed over at %s, "+
		"bookmark %s\n", b.Site, b.Host, b.Since.Format(time.RFC3339), b.Bookmark)
	for _, g := range b.Groups {
		fmt.Fprintf(w, "  group %s: LSN %d, and %d writes since\n", g.Group, g.LSN, g.Writes)
	}
}
