package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// reporting tells the operator of a mount why clients get errors, of which NBD carries
// a number only. The same again and again is told once in a while.
type reporting struct {
	block.Device
	w io.Writer

	mu   sync.Mutex
	last string
	told time.Time
}

const reportEvery = 10 * time.Second

func (r *reporting) tell(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	text := err.Error()
	if text == r.last && time.Since(r.told) < reportEvery {
		return err
	}
	r.last, r.told = text, time.Now()
	fmt.Fprintln(r.w, "pollux: a client's request failed:", text)
	if hint := fail.HintOf(err); hint != "" {
		fmt.Fprintln(r.w, "pollux:   hint:", hint)
	}
	return err
}

func (r *reporting) ReadAt(ctx context.Context, p []byte, off int64) error {
	return r.tell(ctx, r.Device.ReadAt(ctx, p, off))
}

func (r *reporting) Write(ctx context.Context, b block.Buffer, off int64, fua bool) error {
	return r.tell(ctx, r.Device.Write(ctx, b, off, fua))
}

func (r *reporting) Zero(ctx context.Context, off, n int64, keep, fua bool) error {
	return r.tell(ctx, r.Device.Zero(ctx, off, n, keep, fua))
}

func (r *reporting) Trim(ctx context.Context, off, n int64, fua bool) error {
	return r.tell(ctx, r.Device.Trim(ctx, off, n, fua))
}

func (r *reporting) Extents(ctx context.Context, off, n int64) ([]block.Extent, error) {
	out, err := r.Device.Extents(ctx, off, n)
	return out, r.tell(ctx, err)
}
