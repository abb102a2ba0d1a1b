package objlog

import (
	"context"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// ReadyPrefix is what the names of answers to hand-overs begin with.
const ReadyPrefix = "handover/"

// ReadyName is the object in which a site answers a hand-over that is being prepared.
func ReadyName(id uuid.UUID) string { return ReadyPrefix + id.String() }

// maxReadyBytes bounds what is read of one.
const maxReadyBytes = 64 << 10

// ReadReady reads the answer to a hand-over; fail.NotFound while there is none.
func ReadReady(ctx context.Context, s objstore.Store, id uuid.UUID) (r state.Ready, err error) {
	name := ReadyName(id)
	b, err := s.Read(ctx, name, 0, maxReadyBytes, nil)
	if err == nil {
		err = fail.At("read", s.URL()+"/"+name, state.Decode(b, state.KindReady, &r))
	}
	if err == nil && r.ID != id {
		err = fail.New(fail.Damaged, "read", s.URL()+"/"+name, "it answers another hand-over")
	}
	return r, err
}

// WriteReady answers a hand-over. An answer that is there already stays: fail.Exists.
func WriteReady(ctx context.Context, s objstore.Store, r state.Ready) error {
	return s.Create(ctx, ReadyName(r.ID), state.Encode(state.KindReady, r))
}
