package objstore

import (
	"context"
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// ReadWhole reads an object of at most limit bytes. A larger one is fail.Damaged: no
// more memory is taken than its kind may need, whatever lies there under its name.
func ReadWhole(ctx context.Context, s Store, name string, limit int64) ([]byte, error) {
	return ReadWholeInto(ctx, s, name, limit, nil)
}

// ReadWholeInto is ReadWhole; it uses buf's array where that is large enough.
func ReadWholeInto(ctx context.Context, s Store, name string, limit int64, buf []byte) ([]byte, error) {
	b, err := s.Read(ctx, name, 0, limit+1, buf)
	if err == nil && int64(len(b)) > limit {
		return nil, fail.New(fail.Damaged, "read object", s.URL()+"/"+name,
			fmt.Sprintf("it has more than %d bytes", limit))
	}
	return b, err
}
