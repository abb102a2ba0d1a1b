package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// wire is a client that says exactly what a test wants on the wire.
type wire struct {
	t  testing.TB
	nc net.Conn
}

// greetWire connects and answers the greeting.
func greetWire(t testing.TB, network, addr string) *wire {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	w := &wire{t: t, nc: nc}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	g := w.read(18)
	if binary.BigEndian.Uint64(g) != magicInit || binary.BigEndian.Uint64(g[8:]) != magicOption {
		t.Fatalf("greeting %x", g)
	}
	w.write(be32(handshakeFixedNewstyle | handshakeNoZeroes))
	return w
}

// goWire is in the transmission phase.
func goWire(t testing.TB, socket, export string, structured bool) *wire {
	t.Helper()
	w := greetWire(t, "unix", socket)
	if structured {
		w.option(optStructuredReply, nil)
		w.wantReplies(optStructuredReply, repAck)
		meta := append(appendString(nil, export), be32(1)...)
		w.option(optSetMetaContext, appendString(meta, metaBaseAllocation))
		w.wantReplies(optSetMetaContext, repMetaContext, repAck)
	}
	w.option(optGo, goData(export))
	w.wantReplies(optGo, repInfo, repAck)
	return w
}

func goData(export string, infos ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(appendString(nil, export), uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func (w *wire) write(p []byte) {
	w.t.Helper()
	if _, err := w.nc.Write(p); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

func (w *wire) read(n int) []byte {
	w.t.Helper()
	p := make([]byte, n)
	if _, err := io.ReadFull(w.nc, p); err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return p
}

// wantClosed checks that the server hangs up without another word.
func (w *wire) wantClosed() {
	w.t.Helper()
	if p, err := io.ReadAll(w.nc); len(p) > 0 {
		w.t.Fatalf("got %x (%v), want the end", p, err)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		w.t.Fatal("connection stays open")
	}
}

func optionMessage(id uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func (w *wire) option(id uint32, data []byte) { w.t.Helper(); w.write(optionMessage(id, data)) }

type optReply struct {
	kind uint32
	data []byte
}

func (w *wire) optReply(id uint32) optReply {
	w.t.Helper()
	h := w.read(20)
	if binary.BigEndian.Uint64(h) != magicOptReply || binary.BigEndian.Uint32(h[8:]) != id {
		w.t.Fatalf("option reply header %x", h)
	}
	return optReply{binary.BigEndian.Uint32(h[12:]), w.read(int(binary.BigEndian.Uint32(h[16:])))}
}

// wantReplies reads option replies of exactly these kinds.
func (w *wire) wantReplies(id uint32, kinds ...uint32) []optReply {
	w.t.Helper()
	var out []optReply
	for i, k := range kinds {
		r := w.optReply(id)
		if r.kind != k {
			w.t.Fatalf("reply %d to option %d: kind %#x %q, want %#x", i, id, r.kind, r.data, k)
		}
		out = append(out, r)
	}
	return out
}

func requestMessage(flags, cmd uint16, cookie, off uint64, length uint32) []byte {
	b := be32(magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	return binary.BigEndian.AppendUint32(b, length)
}

// simple reads a simple reply and returns its error.
func (w *wire) simple(cookie uint64) uint32 {
	w.t.Helper()
	h := w.read(simpleReplyBytes)
	if binary.BigEndian.Uint32(h) != magicSimpleReply || binary.BigEndian.Uint64(h[8:]) != cookie {
		w.t.Fatalf("simple reply %x, want cookie %#x", h, cookie)
	}
	return binary.BigEndian.Uint32(h[4:])
}

type chunk struct {
	flags, kind uint16
	data        []byte
}

func (w *wire) chunk(cookie uint64) chunk {
	w.t.Helper()
	h := w.read(chunkHeaderBytes)
	if binary.BigEndian.Uint32(h) != magicStructuredReply || binary.BigEndian.Uint64(h[8:]) != cookie {
		w.t.Fatalf("chunk header %x, want cookie %#x", h, cookie)
	}
	return chunk{binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]),
		w.read(int(binary.BigEndian.Uint32(h[16:])))}
}

// alive checks that a request gets an answer.
func (w *wire) alive() {
	w.t.Helper()
	w.write(requestMessage(0, cmdFlush, 0xa11fe, 0, 0))
	if e := w.simple(0xa11fe); e != nbdOK {
		w.t.Fatalf("flush: error %d", e)
	}
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

func pattern(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i)*31 + byte(i>>8) + seed | 1
	}
	return p
}

func wantBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		i := 0
		for i < min(len(got), len(want)) && got[i] == want[i] {
			i++
		}
		t.Fatalf("%s: %d bytes, want %d; first difference at %d", what, len(got), len(want), i)
	}
}
