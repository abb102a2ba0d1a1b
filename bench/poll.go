package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/control"
	"github.com/pollux-dr/pollux/internal/fail"
)

// progress says that everything up to an LSN was durable in the store at a
// time: when the answer arrived, so a lag made from it is never too short.
type progress struct {
	at  time.Time
	lsn uint64
}

// poller asks the agent for its durable LSN over and over. It does so on one
// connection and by blocking system calls, past Go's timers and network poller:
// at a thousand questions a second, the wakings of these cost more than the
// answers.
type poller struct {
	file    *os.File
	in      *bufio.Reader
	request []byte
	// samples are the answers that told something new.
	samples []progress
	gapsMS  []float64 // between answers: the resolution
	spent   time.Duration
}

const (
	minPoll = 500 * time.Microsecond
	maxPoll = 10 * time.Millisecond
	// pollTimeoutSeconds is how long an answer may take.
	pollTimeoutSeconds = 30
)

func newPoller(socket string) (*poller, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "connect to", socket, err)
	}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: pollTimeoutSeconds})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fail.Wrap(fail.Retry, "connect to", socket, err)
	}
	f := os.NewFile(uintptr(fd), socket) // stays blocking
	return &poller{file: f, in: bufio.NewReader(f),
		request: []byte("POST /v1/" + control.VerbStatus + " HTTP/1.1\r\nHost: pollux\r\nContent-Length: 2\r\n\r\n{}")}, nil
}

func (p *poller) close() { _ = p.file.Close() }

// ask returns the durable LSN as the agent reports it.
func (p *poller) ask() (uint64, error) {
	_, err := p.file.Write(p.request)
	var got *http.Response
	var b []byte
	if err == nil {
		got, err = http.ReadResponse(p.in, nil)
	}
	if err == nil {
		b, err = io.ReadAll(got.Body)
	}
	if err != nil {
		return 0, fail.Wrap(fail.Retry, "ask", "agent", err)
	}
	var st struct {
		Groups []struct {
			DurableLSN uint64 `json:"durable_lsn"`
		} `json:"groups"`
	}
	if err := json.Unmarshal(b, &st); err != nil || len(st.Groups) != 1 {
		return 0, fail.New(fail.Internal, "ask", "agent", fmt.Sprintf("%s: unexpected answer %.200s", got.Status, b))
	}
	return st.Groups[0].DurableLSN, nil
}

// run polls until until() names an LSN and that LSN is durable. The pace follows
// what it sees: progress that comes every 100 ms needs no question every
// millisecond.
func (p *poller) run(ctx context.Context, until func() (lsn uint64, known bool)) error {
	interval := minPoll
	var last, news time.Time
	for ctx.Err() == nil {
		begin := time.Now()
		lsn, err := p.ask()
		if err != nil {
			return err
		}
		now := time.Now()
		p.spent += now.Sub(begin)
		if !last.IsZero() {
			p.gapsMS = append(p.gapsMS, ms(now.Sub(last)))
		}
		last = now
		if n := len(p.samples); n == 0 || lsn > p.samples[n-1].lsn {
			p.samples = append(p.samples, progress{now, lsn})
			if !news.IsZero() {
				interval = min(max(now.Sub(news)/20, minPoll), maxPoll)
			}
			news = now
		}
		if end, known := until(); known && lsn >= end {
			return nil
		}
		wait := unix.NsecToTimespec(int64(interval))
		_ = unix.Nanosleep(&wait, nil) // cut short by a signal: no matter
	}
	return ctx.Err()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// lags pairs writes with progress: write i has LSN base+1+i and was
// acknowledged at acks[i]. A write that no sample covers is left out.
func lags(base uint64, acks []time.Time, samples []progress) []float64 {
	out := make([]float64, 0, len(acks))
	k := 0
	for i, at := range acks {
		for k < len(samples) && samples[k].lsn < base+1+uint64(i) {
			k++
		}
		if k == len(samples) {
			break
		}
		// Progress can be seen before the client has its acknowledgement.
		out = append(out, max(0, ms(samples[k].at.Sub(at))))
	}
	return out
}
