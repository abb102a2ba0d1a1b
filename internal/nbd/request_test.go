package nbd

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
	"github.com/pollux-dr/pollux/internal/fail"
)

func dialRaw(t testing.TB, socket string) net.Conn {
	t.Helper()
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return nc
}

const testSize = 8 << 20

// Wrong requests get the protocol's error, payload and all, and the connection
// goes on.
func TestRequestErrors(t *testing.T) {
	type req struct {
		flags, cmd uint16
		off        uint64
		n          uint32
	}
	for _, tc := range []struct {
		name       string
		req        req
		ro         bool
		minBlock   uint32
		structured bool
		want       uint32
	}{
		{name: "unknown command", req: req{cmd: 9, n: 4096}, want: nbdEINVAL},
		{name: "read beyond", req: req{cmd: cmdRead, off: testSize - 1, n: 2}, want: nbdEINVAL},
		{name: "read beyond, structured", req: req{cmd: cmdRead, off: testSize, n: 1}, structured: true,
			want: nbdEINVAL},
		{name: "read offset overflow", req: req{cmd: cmdRead, off: 1<<64 - 1, n: 2}, want: nbdEINVAL},
		{name: "read nothing", req: req{cmd: cmdRead}, want: nbdEINVAL},
		{name: "read too much", req: req{cmd: cmdRead, n: 4 << 20}, want: nbdEINVAL},
		{name: "read DF unstructured", req: req{cmd: cmdRead, flags: cmdFlagDF, n: 1}, want: nbdEINVAL},
		{name: "read DF too long", req: req{cmd: cmdRead, flags: cmdFlagDF, n: maxWholeReadBytes + 1}, structured: true,
			want: nbdEOVERFLOW},
		{name: "read wrong flag", req: req{cmd: cmdRead, flags: cmdFlagNoHole, n: 1}, want: nbdEINVAL},
		{name: "write beyond", req: req{cmd: cmdWrite, off: testSize - 1, n: 2}, want: nbdENOSPC},
		{name: "write large beyond", req: req{cmd: cmdWrite, off: testSize, n: 300 << 10}, want: nbdENOSPC},
		{name: "write too much", req: req{cmd: cmdWrite, n: 3 << 20}, want: nbdEINVAL},
		{name: "write nothing", req: req{cmd: cmdWrite}, want: nbdEINVAL},
		{name: "write wrong flag", req: req{cmd: cmdWrite, flags: cmdFlagDF, n: 512}, want: nbdEINVAL},
		{name: "write unknown flag", req: req{cmd: cmdWrite, flags: 1 << 9, n: 512}, want: nbdEINVAL},
		{name: "write read-only", req: req{cmd: cmdWrite, n: 4096}, ro: true, want: nbdEPERM},
		{name: "write unaligned", req: req{cmd: cmdWrite, off: 100, n: 4096}, minBlock: 512, want: nbdEINVAL},
		{name: "read unaligned", req: req{cmd: cmdRead, off: 512, n: 100}, minBlock: 512, want: nbdEINVAL},
		{name: "zero beyond", req: req{cmd: cmdWriteZeroes, off: testSize, n: 1}, want: nbdENOSPC},
		{name: "zero huge", req: req{cmd: cmdWriteZeroes, n: 1<<32 - 1}, want: nbdENOSPC},
		{name: "zero wrong flag", req: req{cmd: cmdWriteZeroes, flags: cmdFlagReqOne, n: 1}, want: nbdEINVAL},
		{name: "zero read-only", req: req{cmd: cmdWriteZeroes, n: 1}, ro: true, want: nbdEPERM},
		{name: "trim beyond", req: req{cmd: cmdTrim, off: testSize, n: 1}, want: nbdEINVAL},
		{name: "trim read-only", req: req{cmd: cmdTrim, n: 1}, ro: true, want: nbdEPERM},
		{name: "cache beyond", req: req{cmd: cmdCache, off: testSize, n: 1}, want: nbdEINVAL},
		{name: "status unselected", req: req{cmd: cmdBlockStatus, n: 1}, want: nbdEINVAL},
		{name: "status beyond", req: req{cmd: cmdBlockStatus, off: testSize, n: 1}, structured: true, want: nbdEINVAL},
		{name: "flush wrong flag", req: req{cmd: cmdFlush, flags: cmdFlagDF}, want: nbdEINVAL},
		{name: "FUA anywhere", req: req{cmd: cmdFlush, flags: cmdFlagFUA}, want: nbdOK},
		{name: "cache", req: req{cmd: cmdCache, n: 1 << 20}, want: nbdOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := blocktest.NewMemInfo(block.Info{SizeBytes: testSize, MinBlockBytes: max(tc.minBlock, 1),
				ReadOnly: tc.ro})
			_, socket := serve(t, Options{Exports: exports{"": mem}, MaxPayloadBytes: 2 << 20})
			w := goWire(t, socket, "", tc.structured)
			w.write(requestMessage(tc.req.flags, tc.req.cmd, 7, tc.req.off, tc.req.n))
			if tc.req.cmd == cmdWrite {
				w.write(pattern(int(tc.req.n), 1))
			}
			got := uint32(0)
			if tc.structured && (tc.req.cmd == cmdRead || tc.req.cmd == cmdBlockStatus) {
				c := w.chunk(7)
				if c.kind != chunkError || c.flags != chunkFlagDone {
					t.Fatalf("chunk %+v", c)
				}
				got = binary.BigEndian.Uint32(c.data)
			} else {
				got = w.simple(7)
			}
			if got != tc.want {
				t.Errorf("error %d, want %d", got, tc.want)
			}
			w.alive()
			if slices.Max(mem.Bytes()) != 0 {
				t.Error("the device was changed")
			}
		})
	}
}

// Each kind of device error, in each operation, becomes the protocol's error,
// and no buffer is lost or used twice.
func TestDeviceErrors(t *testing.T) {
	for _, kind := range []struct {
		err  error
		want uint32
	}{
		{fail.New(fail.Full, "", "", "x"), nbdENOSPC},
		{fail.New(fail.Refused, "", "", "x"), nbdEPERM},
		{fail.New(fail.Invalid, "", "", "x"), nbdEINVAL},
		{fail.New(fail.NotFound, "", "", "x"), nbdESHUTDOWN},
		{fail.New(fail.Fenced, "", "", "x"), nbdESHUTDOWN},
		{fail.New(fail.Unsupported, "", "", "x"), nbdENOTSUP},
		{fail.New(fail.Damaged, "", "", "x"), nbdEIO},
		{context.Canceled, nbdESHUTDOWN},
	} {
		for _, op := range []struct {
			op  blocktest.Op
			msg []byte
		}{
			{blocktest.Read, requestMessage(0, cmdRead, 1, 0, 4096)},
			{blocktest.Read, requestMessage(0, cmdCache, 1, 0, 4096)},
			{blocktest.Prepare, append(requestMessage(0, cmdWrite, 1, 0, 4096), pattern(4096, 1)...)},
			{blocktest.Prepare, append(requestMessage(0, cmdWrite, 1, 0, 2<<20), pattern(2<<20, 1)...)},
			{blocktest.Write, append(requestMessage(0, cmdWrite, 1, 0, 4096), pattern(4096, 1)...)},
			{blocktest.Write, append(requestMessage(cmdFlagFUA, cmdWrite, 1, 0, 4096), pattern(4096, 1)...)},
			{blocktest.Write, append(requestMessage(cmdFlagFUA, cmdWrite, 1, 0, 2<<20), pattern(2<<20, 1)...)},
			{blocktest.Flush, append(requestMessage(cmdFlagFUA, cmdWrite, 1, 0, 2<<20), pattern(2<<20, 1)...)},
			{blocktest.Flush, requestMessage(0, cmdFlush, 1, 0, 0)},
			{blocktest.Trim, requestMessage(0, cmdTrim, 1, 0, 4096)},
			{blocktest.Trim, requestMessage(0, cmdTrim, 1, 0, 4<<20)},
			{blocktest.Zero, requestMessage(cmdFlagFUA, cmdWriteZeroes, 1, 0, 4096)},
		} {
			mem := blocktest.NewMem(testSize)
			_, socket := serve(t, Options{Exports: exports{"": mem}})
			w := goWire(t, socket, "", false)
			mem.SetHook(func(_ context.Context, o blocktest.Op, _, _ int64) error {
				if o == op.op {
					return kind.err
				}
				return nil
			})
			w.write(op.msg)
			if got := w.simple(1); got != kind.want {
				t.Errorf("%s failing with %v: error %d, want %d", op.op, kind.err, got, kind.want)
			}
			mem.SetHook(nil)
			w.alive()
			if n := mem.Buffers(); n != 0 {
				t.Errorf("%s failing with %v: %d buffers lost", op.op, kind.err, n)
			}
		}
	}
}

func TestStructuredRead(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	_, socket := serve(t, Options{Exports: exports{"": mem}})
	c := dial(t, socket, "")
	data := pattern(readChunkBytes, 3)
	if err := c.WriteAt(context.Background(), data, 0, 0); err != nil {
		t.Fatal(err)
	}

	// A chunk of data and one of zeros, which is sent as a hole.
	w := goWire(t, socket, "", true)
	w.write(requestMessage(0, cmdRead, 5, 0, 2*readChunkBytes))
	got := w.chunk(5)
	if got.kind != chunkOffsetData || got.flags != 0 {
		t.Fatalf("first chunk: kind %d flags %d", got.kind, got.flags)
	}
	wantBytes(t, "chunk", got.data[8:], data)
	got = w.chunk(5)
	want := append(binary.BigEndian.AppendUint64(nil, readChunkBytes), be32(readChunkBytes)...)
	if got.kind != chunkOffsetHole || got.flags != chunkFlagDone {
		t.Fatalf("second chunk: kind %d flags %d", got.kind, got.flags)
	}
	wantBytes(t, "hole", got.data, want)

	// DF: one chunk, holes or not.
	w.write(requestMessage(cmdFlagDF, cmdRead, 6, 0, 2*readChunkBytes))
	got = w.chunk(6)
	if got.kind != chunkOffsetData || got.flags != chunkFlagDone {
		t.Fatalf("DF chunk: kind %d flags %d", got.kind, got.flags)
	}
	wantBytes(t, "DF", got.data[8:], append(data, make([]byte, readChunkBytes)...))

	// An error in the middle names the offset.
	mem.SetHook(func(_ context.Context, _ blocktest.Op, off, _ int64) error {
		if off == readChunkBytes {
			return fail.New(fail.Damaged, "", "", "x")
		}
		return nil
	})
	w.write(requestMessage(0, cmdRead, 8, 0, 2*readChunkBytes))
	if got = w.chunk(8); got.kind != chunkOffsetData {
		t.Fatalf("chunk %d", got.kind)
	}
	got = w.chunk(8)
	want = slices.Concat(be32(nbdEIO), be16(0), binary.BigEndian.AppendUint64(nil, readChunkBytes))
	if got.kind != chunkErrorOffset || got.flags != chunkFlagDone {
		t.Fatalf("error chunk: kind %d flags %d", got.kind, got.flags)
	}
	wantBytes(t, "error", got.data, want)
}

// A simple read larger than memory for it is streamed, and an error in its
// middle closes the connection.
func TestSimpleReadStream(t *testing.T) {
	mem := blocktest.NewMem(testSize)
	_, socket := serve(t, Options{Exports: exports{"": mem}})
	c := dial(t, socket, "")
	data := pattern(5<<19, 7)
	if err := c.WriteAt(context.Background(), data, 100, 0); err != nil {
		t.Fatal(err)
	}
	w := goWire(t, socket, "", false)
	w.write(requestMessage(0, cmdRead, 1, 100, uint32(len(data))))
	if e := w.simple(1); e != nbdOK {
		t.Fatalf("error %d", e)
	}
	wantBytes(t, "stream", w.read(len(data)), data)
	mem.SetHook(func(_ context.Context, _ blocktest.Op, off, _ int64) error {
		if off == 100+1<<20 {
			return fail.New(fail.Damaged, "", "", "x")
		}
		return nil
	})
	w.write(requestMessage(0, cmdRead, 2, 100, uint32(len(data))))
	if e := w.simple(2); e != nbdOK {
		t.Fatalf("error %d", e)
	}
	wantBytes(t, "stream", w.read(1<<20), data[:1<<20])
	w.wantClosed()
}

func TestDescribe(t *testing.T) {
	ext := func(n int64, hole, zero bool) block.Extent { return block.Extent{Bytes: n, Hole: hole, Zero: zero} }
	for _, tc := range []struct {
		name   string
		in     []block.Extent
		length int64
		limit  int
		want   []uint32
	}{
		{"merge", []block.Extent{ext(1, false, false), ext(2, false, false), ext(3, true, true)}, 6, 9,
			[]uint32{3, 0, 3, 3}},
		{"clip", []block.Extent{ext(10, true, true), ext(10, false, true)}, 15, 9, []uint32{10, 3, 5, 2}},
		{"one", []block.Extent{ext(10, true, true), ext(10, false, false)}, 15, 1, []uint32{10, 3}},
		{"one merged", []block.Extent{ext(10, true, true), ext(10, true, true)}, 15, 1, []uint32{15, 3}},
		{"short", []block.Extent{ext(4, false, true)}, 15, 9, []uint32{4, 2}},
		{"nothing", nil, 15, 9, nil},
		{"broken", []block.Extent{ext(0, false, true)}, 15, 9, nil},
	} {
		var want []byte
		for _, v := range tc.want {
			want = binary.BigEndian.AppendUint32(want, v)
		}
		if got := describe(tc.in, tc.length, tc.limit); !slices.Equal(got, want) {
			t.Errorf("%s: %x, want %x", tc.name, got, want)
		}
	}
}
