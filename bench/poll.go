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

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

// progress says that everything up to an LSN was durable in the store at a
// time: when the answer arrived, so a lag made from it is never too short.
type progress struct {
	at  time.Time
	lsn uint64
}

// poller learns a group's durable LSN from the agent, which answers as soon as
// there is news. It does so on one connection and by blocking system calls, past
// Go's network poller: at a thousand answers a second, its wakings cost more
// than the answers.
type poller struct {
	file  *os.File
	in    *bufio.Reader
	group string
	// samples are the answers that told something new.
	samples []progress
}

// pollTimeoutSeconds is how long an answer may take.
const pollTimeoutSeconds = 30

func newPoller(socket, group string) (*poller, error) {
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
	return &poller{file: f, in: bufio.NewReader(f), group: group}, nil
}

func (p *poller) close() { _ = p.file.Close() }

// next returns the durable LSN once it is above after, or some time later.
func (p *poller) next(after uint64) (uint64, error) {
	body, _ := json.Marshal(api.GroupWait{Group: p.group, AfterLSN: after, TimeoutSeconds: pollStepSeconds})
	_, err := fmt.Fprintf(p.file, "POST /v1/%s HTTP/1.1\r\nHost: pollux\r\nContent-Length: %d\r\n\r\n%s",
		api.VerbGroupWait, len(body), body)
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
	var g api.GroupProgress
	if err := json.Unmarshal(b, &g); err != nil || got.StatusCode != http.StatusOK {
		return 0, fail.New(fail.Internal, "ask", "agent", fmt.Sprintf("%s: unexpected answer %.200s", got.Status, b))
	}
	return g.DurableLSN, nil
}

// pollStepSeconds bounds one answer, so that run sees when it may end.
const pollStepSeconds = 0.25

// run follows the progress until until() names an LSN and that LSN is durable.
func (p *poller) run(ctx context.Context, until func() (lsn uint64, known bool)) error {
	last := uint64(0)
	for ctx.Err() == nil {
		lsn, err := p.next(last)
		if err != nil {
			return err
		}
		if lsn > last {
			p.samples = append(p.samples, progress{time.Now(), lsn})
			last = lsn
		}
		if end, known := until(); known && lsn >= end {
			return nil
		}
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
