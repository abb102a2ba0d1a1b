package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// TestRepliesStayWhole sends short and long replies at once, from many
// goroutines: none may get between another's header and its payload.
func TestRepliesStayWhole(t *testing.T) {
	client, server := net.Pipe()
	o := newOutput(server, func() {})
	const each, long = 2000, inlineReplyBytes + 1
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(g)}, long)
			for i := range each {
				if g < 2 {
					o.simple(uint64(g), 0)
				} else if i%50 == 0 {
					o.exclusive(func(write func([]byte)) {
						var h [simpleReplyBytes]byte
						putSimple(&h, uint64(g), nbdOK)
						write(h[:])
						write(data[:long/2])
						write(data[long/2:])
					})
				} else {
					o.simpleData(uint64(g), data)
				}
			}
			o.flush()
		})
	}
	go func() {
		wg.Wait()
		_ = o.close()
		_ = server.Close()
	}()
	defer client.Close()
	head, data := make([]byte, simpleReplyBytes), make([]byte, long)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(client, head); err == io.EOF && n == 4*each {
			return
		} else if err != nil {
			t.Fatalf("after %d replies: %v", n, err)
		}
		g := binary.BigEndian.Uint64(head[8:])
		if binary.BigEndian.Uint32(head) != magicSimpleReply || g > 3 {
			t.Fatalf("reply %d begins with %x", n, head)
		}
		if g < 2 {
			continue
		}
		if _, err := io.ReadFull(client, data); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(data, []byte{byte(g)}) != long {
			t.Fatalf("the payload of reply %d has something else in it: %x…", n, data[:32])
		}
	}
}
