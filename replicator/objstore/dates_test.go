package objstore

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestDates(t *testing.T) {
	var none *Dates
	none.Note(time.Now())
	none.Restart()
	if none.Span() != 0 {
		t.Error("no dates, and a span")
	}
	now, d := time.Now(), &Dates{}
	d.Note(time.Time{})
	for i, tt := range []struct {
		restart bool
		note    time.Duration
		want    time.Duration
	}{{false, 0, 0}, {false, time.Hour, time.Hour}, {false, -time.Hour, 2 * time.Hour}, {true, 0, time.Hour},
		{true, 1000 * time.Hour, 1000 * time.Hour}, {false, time.Hour, 1000 * time.Hour}, {true, time.Hour, 0}} {
		if tt.restart {
			d.Restart()
		}
		d.Note(now.Add(tt.note))
		if got := d.Span(); got != tt.want {
			t.Errorf("step %d: %v, want %v", i, got, tt.want)
		}
	}
}

// TestDatesOfAnswers: a server's Date and a file's time are noted before the call returns.
func TestDatesOfAnswers(t *testing.T) {
	at := time.Now()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", at.UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	for url, o := range map[string]Options{"s3://bucket/p": {Endpoint: srv.URL, Region: "r"}, "file://" +
		t.TempDir(): {}} {
		o.Dates = &Dates{}
		s, err := Open(t.Context(), url, o)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Create(t.Context(), "a/b", nil) // the server has nothing but dates
		if o.Dates.newest.IsZero() || o.Dates.newest.Sub(at).Abs() > time.Minute {
			t.Errorf("%s: %v", url, o.Dates.newest)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
