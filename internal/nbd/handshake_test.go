package nbd

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

func TestOptions(t *testing.T) {
	meta := func(export string, queries ...string) []byte {
		b := append(appendString(nil, export), be32(uint32(len(queries)))...)
		for _, q := range queries {
			b = appendString(b, q)
		}
		return b
	}
	sr := optionMessage(optStructuredReply, nil)
	for _, tc := range []struct {
		name   string
		before []byte // an option answered by one ACK
		id     uint32
		data   []byte
		want   []uint32
		last   []byte // data of the reply before the final one
	}{
		{name: "unknown", id: 99, data: []byte("xyz"), want: []uint32{repErrUnsup}},
		{name: "extended headers", id: 11, want: []uint32{repErrUnsup}},
		{name: "list", id: optList, want: []uint32{repServer, repAck},
			last: append(appendString(nil, "disk"), "memory"...)},
		{name: "list with data", id: optList, data: []byte{1}, want: []uint32{repErrInvalid}},
		{name: "starttls without config", id: optStartTLS, want: []uint32{repErrPolicy}},
		{name: "structured reply", id: optStructuredReply, want: []uint32{repAck}},
		{name: "structured reply with data", id: optStructuredReply, data: []byte{1}, want: []uint32{repErrInvalid}},
		{name: "info", id: optInfo, data: goData("disk"), want: []uint32{repInfo, repAck}},
		{name: "info default", id: optInfo, data: goData(""), want: []uint32{repInfo, repAck}},
		{name: "info name", id: optInfo, data: goData("disk", infoName), want: []uint32{repInfo, repInfo, repAck},
			last: []byte("\x00\x01disk")},
		{name: "info description", id: optInfo, data: goData("disk", infoDescription),
			want: []uint32{repInfo, repInfo, repAck}, last: []byte("\x00\x02memory")},
		{
			name: "info block size", id: optInfo, data: goData("disk", infoBlockSize, 77),
			want: []uint32{repInfo, repInfo, repAck},
			last: slices.Concat([]byte{0, 3}, be32(1), be32(4096), be32(32<<20)),
		},
		{name: "info unknown export", id: optInfo, data: goData("nope"), want: []uint32{repErrUnknown}},
		{name: "go unknown export", id: optGo, data: goData("nope"), want: []uint32{repErrUnknown}},
		{name: "info empty", id: optInfo, want: []uint32{repErrInvalid}},
		{name: "info trailing", id: optInfo, data: append(goData("disk"), 0), want: []uint32{repErrInvalid}},
		{name: "info short list", id: optInfo, data: append(appendString(nil, "disk"), 0, 9, 0, 0),
			want: []uint32{repErrInvalid}},
		{name: "info name too long", id: optInfo, data: goData(strings.Repeat("x", 4097)),
			want: []uint32{repErrInvalid}},
		{name: "info lying name length", id: optInfo, data: be32(1 << 31), want: []uint32{repErrInvalid}},
		{name: "too big", id: optInfo, data: make([]byte, maxOptionBytes+1), want: []uint32{repErrTooBig}},
		{name: "list meta, all", id: optListMetaContext, data: meta("disk"), want: []uint32{repMetaContext, repAck},
			last: []byte("\x00\x00\x00\x00base:allocation")},
		{name: "list meta, empty query", id: optListMetaContext, data: meta("disk", ""),
			want: []uint32{repMetaContext, repAck}},
		{name: "list meta, namespace", before: sr, id: optListMetaContext, data: meta("disk", "base:"),
			want: []uint32{repMetaContext, repAck}},
		{name: "list meta, other", id: optListMetaContext, data: meta("disk", "qemu:"), want: []uint32{repAck}},
		{name: "list meta, unknown export", id: optListMetaContext, data: meta("nope"), want: []uint32{repErrUnknown}},
		{name: "set meta", before: sr, id: optSetMetaContext, data: meta("disk", "x:y", metaBaseAllocation),
			want: []uint32{repMetaContext, repAck}, last: []byte("\x00\x00\x00\x01base:allocation")},
		{name: "set meta, none", before: sr, id: optSetMetaContext, data: meta("disk"), want: []uint32{repAck}},
		{name: "set meta, namespace", before: sr, id: optSetMetaContext, data: meta("disk", "base:"),
			want: []uint32{repAck}},
		{name: "set meta, unstructured", id: optSetMetaContext, data: meta("disk", metaBaseAllocation),
			want: []uint32{repErrInvalid}},
		{name: "set meta, lying count", before: sr, id: optSetMetaContext,
			data: append(appendString(nil, "disk"), be32(1<<31)...), want: []uint32{repErrInvalid}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, socket := serve(t, Options{Exports: exports{"disk": blocktest.NewMem(1 << 20)}})
			w := greetWire(t, "unix", socket)
			if tc.before != nil {
				w.write(tc.before)
				w.wantReplies(binary.BigEndian.Uint32(tc.before[8:]), repAck)
			}
			w.option(tc.id, tc.data)
			got := w.wantReplies(tc.id, tc.want...)
			if tc.last != nil && !bytes.Equal(got[len(got)-2].data, tc.last) {
				t.Errorf("got %q, want %q", got[len(got)-2].data, tc.last)
			}
			w.option(optAbort, nil) // the negotiation goes on after any answer
			w.wantReplies(optAbort, repAck)
			w.wantClosed()
		})
	}
}

func TestExportName(t *testing.T) {
	mem := blocktest.NewMem(1 << 20)
	_, socket := serve(t, Options{Exports: exports{"disk": mem}})

	w := greetWire(t, "unix", socket)
	w.option(optExportName, []byte("disk"))
	p := w.read(10)
	if size := binary.BigEndian.Uint64(p); size != 1<<20 {
		t.Errorf("size %d", size)
	}
	if f := binary.BigEndian.Uint16(p[8:]); f != transmissionFlags(mem.Info(), false) || f&flagSendDF != 0 {
		t.Errorf("flags %#x", f)
	}
	w.alive()

	w = greetWire(t, "unix", socket)
	w.option(optExportName, []byte("nope"))
	w.wantClosed()
}

func TestExportNameWithZeroes(t *testing.T) {
	_, socket := serve(t, Options{Exports: exports{"disk": blocktest.NewMem(1 << 20)}})
	w := &wire{t: t, nc: greetWire(t, "unix", socket).nc}
	_ = w.nc.Close()
	nc := dialRaw(t, socket)
	w = &wire{t: t, nc: nc}
	w.read(18)
	w.write(be32(handshakeFixedNewstyle))
	w.option(optExportName, nil)
	if p := w.read(134); !bytes.Equal(p[10:], make([]byte, 124)) {
		t.Errorf("padding %x", p[10:])
	}
	w.alive()
}

func TestTransmissionFlags(t *testing.T) {
	for _, tc := range []struct {
		readOnly, structured bool
		want                 uint16
	}{
		{false, true, 0b1101_1110_1101},
		{false, false, 0b1101_0110_1101},
		{true, true, 0b0101_1000_0111},
	} {
		if got := transmissionFlags(block.Info{ReadOnly: tc.readOnly}, tc.structured); got != tc.want {
			t.Errorf("%+v: flags %012b, want %012b", tc, got, tc.want)
		}
	}
}

// A meta context selected for one export means nothing for another.
func TestMetaContextIsPerExport(t *testing.T) {
	_, socket := serve(t, Options{Exports: exports{"a": blocktest.NewMem(4096), "b": blocktest.NewMem(4096)}})
	w := greetWire(t, "unix", socket)
	w.option(optStructuredReply, nil)
	w.wantReplies(optStructuredReply, repAck)
	w.option(optSetMetaContext, appendString(append(appendString(nil, "a"), be32(1)...), metaBaseAllocation))
	w.wantReplies(optSetMetaContext, repMetaContext, repAck)
	w.option(optGo, goData("b"))
	w.wantReplies(optGo, repInfo, repAck)
	w.write(requestMessage(0, cmdBlockStatus, 1, 0, 4096))
	if c := w.chunk(1); c.kind != chunkError || binary.BigEndian.Uint32(c.data) != nbdEINVAL {
		t.Errorf("got %+v", c)
	}
}
