package change

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/fail"
)

func testAppend(bodies ...bool) Append {
	a := Append{Stream: testStream, Lease: Lease{Epoch: 1, Number: 2}}
	at := appendHead
	for i, whole := range bodies {
		b := encode(CodecS2, testChanges(100+i))
		at += itemHead
		it := AppendItem{Ref: uint64(10 + i), Header: b[:HeaderBytes], Offset: at}
		if whole {
			it.Body = b[HeaderBytes:]
		}
		at += len(it.Header) + len(it.Body)
		a.Items = append(a.Items, it)
	}
	return a
}

func payload(a Append) []byte { return bytes.Join(a.Parts(), nil) }

func TestAppendRoundTrip(t *testing.T) {
	for _, bodies := range [][]bool{{true}, {false}, {true, true}, {false, false, false}, {true, false, true, false},
		{false, true}} {
		a := testAppend(bodies...)
		got, err := ParseAppend(payload(a))
		if err != nil {
			t.Fatalf("%v: %v", bodies, err)
		}
		if diff := cmp.Diff(a, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", bodies, diff)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	good := payload(testAppend(true, false))
	for n := range good {
		if _, err := ParseAppend(good[:n]); !fail.Is(err, fail.Damaged) || !strings.Contains(err.Error(), "at byte") {
			t.Fatalf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	for name, do := range map[string]func(b []byte) []byte{
		"one byte more": func(b []byte) []byte { return append(b, 0) },
		"no items":      func(b []byte) []byte { b[32] = 0; return b },
		"many items":    func(b []byte) []byte { b[33] = 0xff; return b },
		"long body":     func(b []byte) []byte { b[appendHead+10] = 0xff; return b },
	} {
		if _, err := ParseAppend(do(bytes.Clone(good))); !fail.Is(err, fail.Damaged) ||
			!strings.Contains(err.Error(), "at byte") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAppendLimits: the number of items is not believed before it is checked
// against the bytes that are there.
func TestAppendLimits(t *testing.T) {
	b := payload(testAppend(false))
	b[32], b[33] = 0, 4 // 1024 items
	n := testing.AllocsPerRun(10, func() {
		if _, err := ParseAppend(b); err == nil {
			t.Error("accepted")
		}
	})
	if n > 10 {
		t.Errorf("%v allocations", n)
	}
}

// TestAppendFlips: an Append has no checksum of its own (the connection's and
// Raft's WAL entry's cover it), but no flipped byte makes another frame of one
// that it carries.
func TestAppendFlips(t *testing.T) {
	orig := testAppend(true, true)
	good := payload(orig)
	same := func(it AppendItem) bool {
		for _, o := range orig.Items {
			if bytes.Equal(it.Header, o.Header) && bytes.Equal(it.Body, o.Body) {
				return true
			}
		}
		return false
	}
	for off := range good {
		b := bytes.Clone(good)
		b[off] ^= 1 << (off % 8)
		a, err := ParseAppend(b)
		if err != nil {
			continue
		}
		for _, it := range a.Items {
			if _, err := decode(append(bytes.Clone(it.Header), it.Body...)); err == nil && !same(it) {
				t.Fatalf("byte %d: another frame", off)
			}
		}
	}
}

func TestFault(t *testing.T) {
	if FaultOf(nil) != nil || (*Fault)(nil).Err("", "") != nil {
		t.Error("no error became one")
	}
	err := FaultOf(fail.New(fail.Fenced, "append to", "group g", "superseded").WithHint("stop")).Err("greet", "journal")
	if !fail.Is(err, fail.Fenced) || fail.HintOf(err) != "stop" ||
		!strings.Contains(err.Error(), "append to group g: superseded") {
		t.Errorf("%v, hint %q", err, fail.HintOf(err))
	}
	if err := FaultOf(errors.New("plain")).Err("", ""); !fail.Is(err, fail.Internal) {
		t.Errorf("plain error came back as %v", fail.KindOf(err))
	}
	if err := (&Fault{Kind: "of the future", Text: "x"}).Err("", ""); !fail.Is(err, fail.Internal) {
		t.Errorf("unknown kind came back as %v", fail.KindOf(err))
	}
}

func TestMessagesJSON(t *testing.T) {
	ack := Ack{Stream: testStream, Committed: Point{LSN: 3, Hash: Hash{1, 2}}, Released: 2, Durable: 1,
		Fault: &Fault{Kind: "fenced", Text: "x"}}
	var got Ack
	if err := Decode(Encode(ack), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ack, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "{", `{"stream":"no uuid"}`, `{"committed":{"hash":"00"}}`,
		`{"committed":{"hash":"zz112233445566778899aabbccddeeff"}}`, `{"released":-1}`} {
		if err := Decode([]byte(bad), &got); !fail.Is(err, fail.Damaged) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	var h Hash
	if b, err := json.Marshal(Hash{0xab}); err != nil || json.Unmarshal(b, &h) != nil || h != (Hash{0xab}) {
		t.Errorf("hash as JSON: %s, %v", b, err)
	}
	for _, k := range []Kind{Write, Zero, Trim, Mark, 77} {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}

// FuzzParseAppend: what is accepted encodes to the same bytes, reserved ones
// aside.
func FuzzParseAppend(f *testing.F) {
	f.Add(payload(testAppend(true)))
	f.Add(payload(testAppend(false)))
	f.Add(payload(testAppend(true, false, true)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAppend(b)
		if err != nil {
			if !fail.Is(err, fail.Damaged) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseAppend(payload(a))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, again); diff != "" || len(payload(a)) != len(b) {
			t.Error(diff)
		}
	})
}
