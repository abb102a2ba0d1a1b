package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// costReport is what `pollux cost --json` prints. Prices and costs are in whatever
// money the prices were given in; 0 where none were.
type costReport struct {
	Store string `json:"store"`
	*gc.Usage
	PutsPerDay    map[string]float64 `json:"puts_per_day"` // by kind
	StoragePrice  float64            `json:"storage_price_per_gb_month"`
	PutPrice      float64            `json:"put_price_per_1000"`
	StorageMonth  float64            `json:"storage_cost_per_month"`
	RequestsMonth float64            `json:"requests_cost_per_month"`
	TotalMonth    float64            `json:"cost_per_month"`
	Budget        float64            `json:"budget_per_month,omitempty"`
}

func newCost() *cobra.Command {
	var s cli.StoreFlags
	var r costReport
	var json bool
	c := &cobra.Command{Use: "cost --store URL", Short: "What a journal's log takes of its store, and what that comes to",
		Long: `Counts objects and bytes by what they are for (live: the newest points; history:
the other points that are kept; maps; garbage, which pollux gc deletes), and the
objects created per day, from the store alone. With prices it says what they
come to each month; with --budget it fails, with exit status 7, when that is more.`,
		Args: cobra.NoArgs}
	s.Add(c)
	c.Flags().Float64Var(&r.StoragePrice, "price-gb-month", 0, "price of a GB (10^9 bytes) stored for a month, as in 0.023")
	c.Flags().Float64Var(&r.PutPrice, "price-1000-puts", 0, "price of 1000 PUT requests, as in 0.005")
	c.Flags().Float64Var(&r.Budget, "budget", 0, "what a month may cost")
	c.Flags().BoolVar(&json, "json", false, "print one JSON object and nothing else")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if r.StoragePrice < 0 || r.PutPrice < 0 || r.Budget < 0 {
			return fail.New(fail.Invalid, "count costs of", s.URL, "a price or the budget is below zero")
		}
		if r.Budget > 0 && r.StoragePrice == 0 && r.PutPrice == 0 {
			return fail.New(fail.Invalid, "count costs of", s.URL, "a budget without prices").WithHint("give --price-gb-month and --price-1000-puts, as the store's provider lists them")
		}
		store, done, err := cli.OpenStore(c.Context(), &s)
		if err != nil {
			return err
		}
		defer done()
		store, end := cli.Counted(store, c.ErrOrStderr(), "counting")
		defer end()
		if r.Usage, err = gc.Measure(c.Context(), store, gc.Options{}); err != nil {
			return err
		}
		const days = 30.44
		r.Store, r.PutsPerDay = store.URL(), map[string]float64{}
		puts := 0.0
		if r.Hours >= minHours {
			for kind := range r.Created {
				r.PutsPerDay[kind] = r.PerDay(kind)
				puts += r.PutsPerDay[kind]
			}
		}
		r.StorageMonth, r.RequestsMonth = float64(r.Bytes)/1e9*r.StoragePrice, puts*days/1000*r.PutPrice
		r.TotalMonth = r.StorageMonth + r.RequestsMonth
		if json {
			err = cli.PrintJSON(c.OutOrStdout(), &r)
		} else {
			printCost(c.OutOrStdout(), &r)
		}
		if err == nil && r.Budget > 0 && r.TotalMonth > r.Budget {
			err = fail.New(fail.Full, "count costs of", r.Store, fmt.Sprintf("%.2f a month is more than the budget of %.2f", r.TotalMonth, r.Budget)).
				WithHint("a shorter retention and pollux gc take bytes away; a lower requests.rate of the target in the configuration takes requests away")
		}
		return err
	}
	return c
}

// minHours is how long a log must have been written to before its requests say anything
// about a day.
const minHours = 1

func printCost(w io.Writer, r *costReport) {
	rows := [][]string{{"BYTES", "", "PART"}}
	for _, x := range []struct {
		name string
		n    int64
	}{{"live", r.LiveBytes}, {"history", r.HistoryBytes}, {"maps", r.MapBytes}, {"garbage", r.GarbageBytes}, {"all", r.Bytes}} {
		rows = append(rows, []string{x.name, text.Bytes(x.n), fmt.Sprintf("%.0f%%", 100*float64(x.n)/float64(max(r.Bytes, 1)))})
	}
	text.Table(w, rows)
	fmt.Fprintf(w, "%d objects\n", r.Objects)
	if r.Hours < minHours {
		fmt.Fprintln(w, "requests: the log is less than an hour old, too short to tell")
	}
	for _, kind := range slices.Sorted(maps.Keys(r.PutsPerDay)) {
		fmt.Fprintf(w, "%s: %.0f PUT requests a day (by the last %.1f hours)\n", kind, r.PutsPerDay[kind], r.Hours)
	}
	if r.StoragePrice > 0 || r.PutPrice > 0 {
		fmt.Fprintf(w, "a month at these prices: %.2f for storage, %.2f for requests, %.2f in all\n", r.StorageMonth, r.RequestsMonth, r.TotalMonth)
	}
}
