package nbd

import (
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/block/blocktest"
)

// FuzzServer throws a byte stream at a server: it must neither crash nor hang
// nor lose a buffer (blocktest panics when one is used twice).
func FuzzServer(f *testing.F) {
	hello := be32(handshakeFixedNewstyle | handshakeNoZeroes)
	sr := optionMessage(optStructuredReply, nil)
	meta := optionMessage(optSetMetaContext,
		appendString(append(appendString(nil, ""), be32(1)...), metaBaseAllocation))
	enter := slices.Concat(hello, sr, meta, optionMessage(optGo, goData("", infoBlockSize, infoName)))
	f.Add(hello)
	f.Add(slices.Concat(hello, optionMessage(optList, nil), optionMessage(optInfo, goData("")),
		optionMessage(optAbort, nil)))
	f.Add(slices.Concat(hello, optionMessage(optExportName, nil), requestMessage(0, cmdRead, 1, 0, 512)))
	f.Add(slices.Concat(enter, requestMessage(0, cmdWrite, 1, 0, 16), make([]byte, 16),
		requestMessage(0, cmdDisc, 0, 0, 0)))
	f.Add(slices.Concat(enter, requestMessage(cmdFlagFUA, cmdWrite, 1, 8, 4), []byte("abcd"),
		requestMessage(0, cmdFlush, 2, 0, 0)))
	f.Add(slices.Concat(enter, requestMessage(cmdFlagReqOne, cmdBlockStatus, 1, 0, 4096),
		requestMessage(0, cmdRead, 2, 0, 65536)))
	f.Add(slices.Concat(enter, requestMessage(cmdFlagDF, cmdRead, 1, 3, 5000), requestMessage(0, cmdTrim, 2, 0, 4096)))
	f.Add(slices.Concat(enter, requestMessage(cmdFlagFastZero|cmdFlagNoHole, cmdWriteZeroes, 1, 0, 4096),
		requestMessage(0, cmdCache, 2, 0, 4096)))
	f.Add(slices.Concat(enter, requestMessage(0, cmdWrite, 1, 0, 70000), make([]byte, 70000)))
	f.Add(slices.Concat(enter, requestMessage(0, cmdWrite, 1, 1<<40, 100), make([]byte, 100), make([]byte, 28)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		mem := blocktest.NewMem(128 << 10)
		s := New(Options{Exports: exports{"": mem}, StallLimit: 2 * time.Second, HandshakeTimeout: 2 * time.Second})
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeConn(there)
		}()
		go func() {
			_, _ = here.Write(stream)
			time.Sleep(time.Millisecond)
			_ = here.Close()
		}()
		_, _ = io.Copy(io.Discard, here)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("connection does not end")
		}
		_ = s.Close()
		if n := mem.Buffers(); n != 0 {
			t.Fatalf("%d buffers lost", n)
		}
	})
}
