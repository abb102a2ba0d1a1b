package catalog

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// A catalog's object is
//
//	0 4 magic "PLXK"   4 2 version   6 2 reserved   8 4 bytes of the JSON, plain
//	12 4 CRC-32C of bytes 0..11 and the plain JSON   16 - JSON, zstd
const (
	magic = "PLXK"
	// Version is the version that this build writes and reads.
	Version   = 1
	headBytes = 16
	// MaxBytes bounds a catalog's JSON. What it takes in memory is a few times as much.
	MaxBytes = 256 << 20
	// smallBytes of JSON are taken however they shrink, and whatever they hold.
	smallBytes = 16 << 20
	// maxRatio bounds what the JSON can shrink to, minValueBytes the shortest object in
	// it on the average: what is beyond was made to fill memory.
	maxRatio      = 250
	minValueBytes = 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the catalog's object.
func Encode(c *Catalog) ([]byte, error) {
	js, err := json.Marshal(c)
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "encode", "catalog", err)
	}
	if len(js) > MaxBytes {
		return nil, fail.New(fail.Full, "encode", "catalog", fmt.Sprintf("%d bytes exceed %d", len(js), MaxBytes)).
			WithHint("keep fewer points, or use several journals")
	}
	le, b := binary.LittleEndian, make([]byte, headBytes, headBytes+len(js)/4)
	copy(b, magic)
	le.PutUint16(b[4:], Version)
	le.PutUint32(b[8:], uint32(len(js)))
	le.PutUint32(b[12:], crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, js))
	return change.Zstd(change.Thorough, b, js), nil
}

// Decode undoes Encode and checks the outcome. Errors are fail.Damaged or
// fail.Unsupported.
func Decode(b []byte) (*Catalog, error) {
	bad := func(at int, format string, args ...any) (*Catalog, error) {
		return nil, fail.New(fail.Damaged, "decode catalog", fmt.Sprintf("at byte %d", at),
			fmt.Sprintf(format, args...))
	}
	if len(b) < headBytes || string(b[:4]) != magic {
		return bad(0, "not a catalog")
	}
	le := binary.LittleEndian
	n := le.Uint32(b[8:])
	if n > MaxBytes || n > smallBytes && int64(n) > maxRatio*int64(len(b)) {
		return bad(8, "%d bytes", n)
	}
	js := make([]byte, n)
	if err := change.Decompress(change.CodecZstd, js, b[headBytes:]); err != nil {
		return bad(headBytes, "it does not decompress: %v", err)
	}
	if crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, js) != le.Uint32(b[12:]) {
		return bad(12, "checksum does not match")
	}
	if v := le.Uint16(b[4:]); v != Version {
		return nil, fail.New(fail.Unsupported, "decode catalog", "",
			fmt.Sprintf("version %d; this build reads %d", v, Version)).
			WithHint("use a pollux version that knows this format")
	}
	if most := max(len(js), smallBytes)/minValueBytes + 64; bytes.Count(js, []byte("{")) > most ||
		bytes.Count(js, []byte("null")) > most {
		return bad(headBytes, "%d bytes for more than %d values", n, most)
	}
	c := &Catalog{}
	if err := json.Unmarshal(js, c); err != nil {
		return bad(headBytes, "%v", err)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	if _, err := c.LoadState(); err != nil { // Damaged, or of a later release
		return nil, fail.At("decode catalog", fmt.Sprint(c.Number), err)
	}
	return c, nil
}

// Name is the object of a catalog's number.
func Name(number uint64) string { return fmt.Sprintf("catalog/%020d", number) }

// List returns the numbers of the catalogs that there are, ascending.
func List(ctx context.Context, s objstore.Store) (numbers []uint64, err error) {
	err = s.List(ctx, "catalog/", "", func(i objstore.Info) error {
		n, err := strconv.ParseUint(strings.TrimPrefix(i.Name, "catalog/"), 10, 64)
		if err == nil && Name(n) == i.Name { // else not ours
			numbers = append(numbers, n)
		}
		return nil
	})
	return numbers, err
}

// A writer checks the tail of its log, in the newest catalog, before it counts as durable
// what it created more than TailCheck after the last time (package uploader). So a fence, and
// the positions before it, can be freed once a catalog has passed it for FenceGrace, by the
// store's clock: the difference is for that clock's own errors.
const (
	TailCheck  = 6 * time.Hour
	FenceGrace = 2 * TailCheck
)

// Newest loads the newest catalog of a journal's log, nil where there never was one. A list may
// be stale: what follows its last is asked for by name. A catalog that cannot be read is passed
// over, for the two newest know all that was ever deleted; two of them are fail.Retry, and so is
// one that was listed and is gone by now.
func Newest(ctx context.Context, s objstore.Store, journal uuid.UUID) (*Catalog, error) {
	c, _, err := NewestOf(ctx, s, journal, nil)
	return c, err
}

// NewestOf is Newest, and beside it the newest catalog of which dead does not say that it covers
// a dead branch; nil where there is none. Of those before the newest, one that is gone or cannot
// be read is passed over.
func NewestOf(ctx context.Context, s objstore.Store, journal uuid.UUID, dead func(*Catalog) bool) (
	newest, live *Catalog, err error) {
	numbers, err := upTo(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	unknown := func(why error) error {
		return (&fail.Error{Kind: fail.Retry, Op: "find the newest catalog in", Object: s.URL(), Err: why}).
			WithHint("bring the object back from a version or replica of the bucket, or use a pollux version that " +
				"knows its format")
	}
	var unread error
	for i := len(numbers) - 1; i >= 0; i-- {
		c, err := Load(ctx, s, numbers[i])
		ofObject := fail.Is(err, fail.Damaged) || fail.Is(err, fail.Unsupported)
		switch {
		case err == nil && c.Journal == journal:
			if newest == nil {
				newest = c
			}
			if dead == nil || !dead(c) {
				return newest, c, nil
			}
		case err == nil: // another's, left in this place, says nothing
		case newest != nil && (ofObject || fail.Is(err, fail.NotFound)):
		case ofObject:
			if unread != nil {
				return nil, nil, unknown(unread)
			}
			unread = err
		case fail.Is(err, fail.NotFound): // there are newer ones than were listed
			return nil, nil, unknown(err)
		default:
			return nil, nil, err
		}
	}
	if newest == nil && unread != nil && numbers[0] > 0 { // there were others before it
		return nil, nil, unknown(unread)
	}
	return newest, nil, nil
}

// upTo is List, and what follows the last by name.
func upTo(ctx context.Context, s objstore.Store) ([]uint64, error) {
	numbers, err := List(ctx, s)
	if err != nil {
		return nil, err
	}
	for {
		next := uint64(0)
		if n := len(numbers); n > 0 {
			next = numbers[n-1] + 1
		}
		if _, err := s.Size(ctx, Name(next)); fail.Is(err, fail.NotFound) {
			return numbers, nil
		} else if err != nil {
			return nil, err
		}
		numbers = append(numbers, next)
	}
}

// Load reads a catalog. Errors: fail.NotFound, fail.Damaged and fail.Unsupported with
// the object's name.
func Load(ctx context.Context, s objstore.Store, number uint64) (c *Catalog, err error) {
	err = objstore.Reread(func() error {
		c, err = load(ctx, s, number)
		return err
	})
	return c, err
}

func load(ctx context.Context, s objstore.Store, number uint64) (*Catalog, error) {
	b, err := objstore.ReadWhole(ctx, s, Name(number), MaxBytes)
	if err != nil {
		return nil, err
	}
	c, err := Decode(b)
	if err == nil && c.Number != number {
		err = fail.New(fail.Damaged, "decode catalog", "", fmt.Sprintf("it says that it is number %d", c.Number))
	}
	return c, fail.At("read", s.URL()+"/"+Name(number), err)
}

// Create stores a catalog. Whoever was faster with its number keeps it: fail.Exists.
func Create(ctx context.Context, s objstore.Store, c *Catalog) error {
	if err := c.check(); err != nil {
		return fail.Wrap(fail.Internal, "create", "catalog", err)
	}
	b, err := Encode(c)
	if err != nil {
		return err
	}
	return s.Create(ctx, Name(c.Number), b)
}
