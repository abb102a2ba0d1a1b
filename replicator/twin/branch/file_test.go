package branch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/golden"
)

func sampleHead() Head {
	return Head{Journal: uuid.UUID{1, 2}, Stream: uuid.UUID{3, 4}, Volume: 7, SizeBytes: 1 << 20, Epoch: 1,
		Base: change.Point{LSN: 42, Hash: change.Hash{9}}}
}

func fillSample(w *Writer) error {
	if err := w.Add(4096, 8192, bytes.Repeat([]byte{'A'}, 8192)); err != nil {
		return err
	}
	if err := w.Add(12288, 65536, nil); err != nil {
		return err
	}
	return w.Add(1<<20-512, 512, bytes.Repeat([]byte{'Z'}, 512))
}

func sample(t testing.TB) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, sampleHead())
	if err == nil {
		err = fillSample(w)
	}
	if err == nil {
		_, err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var sampleTotals = Totals{Extents: 3, Bytes: 8192 + 65536 + 512, ZeroBytes: 65536}

func TestGoldenExtents(t *testing.T) {
	b := golden.Kept(t, "volume.extents", func() []byte { return sample(t) })
	if !bytes.Equal(b, sample(t)) {
		t.Error("other bytes are written today")
	}
	var got []string
	h, totals, err := Read(bytes.NewReader(b), func(e Extent) error {
		got = append(got, fmt.Sprintf("%d+%d %.1q", e.Off, e.Len, e.Data))
		return nil
	})
	if err != nil || h != sampleHead() || totals != sampleTotals {
		t.Errorf("%+v %+v %v", h, totals, err)
	}
	want := []string{`4096+8192 "A"`, `12288+65536 ""`, `1048064+512 "Z"`}
	for i := range want { // %.1q cuts
		if i >= len(got) || !strings.HasPrefix(got[i], strings.TrimSuffix(want[i], `"`)) {
			t.Errorf("extents %q", got)
			break
		}
	}
}

func sampleBranch() *Branch {
	at := time.Date(2026, 11, 29, 6, 0, 0, 0, time.UTC)
	p := change.Point{LSN: 42, Hash: change.Hash{9}}
	return &Branch{ID: "20261129-060000-01020000", Created: at, Journal: uuid.UUID{1, 2}, Epoch: 1, Site: "seoul",
		Agent: "host-a", Successor: Successor{Epoch: 2, Site: "busan", Target: "far", Position: 9, Index: 100,
			Time: at},
		Streams: []Stream{{ID: uuid.UUID{3, 4}, Group: "g", Point: p, Base: p, End: change.Point{LSN: 50}, From: at,
			To: at}},
		Volumes: []Volume{{Name: "v", Number: 7, Group: "g", Stream: uuid.UUID{3, 4}, SizeBytes: 1 << 20,
			Backing: "/dev/x", File: "volume-7.extents", Totals: sampleTotals}}}
}

func TestGoldenRecord(t *testing.T) {
	write := func() []byte {
		state := t.TempDir()
		b := sampleBranch()
		if err := Make(state, b.ID); err != nil {
			t.Fatal(err)
		}
		if err := b.Save(state); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(PathOf(state, b.ID) + "/" + recordName)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	kept := golden.Kept(t, "branch.json", write)
	if !bytes.Equal(kept, write()) {
		t.Error("other bytes are written today")
	}
	line, _, _ := bytes.Cut(kept, []byte("\n"))
	var got Branch
	want := sampleBranch()
	want.Version = 1
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, &got); diff != "" {
		t.Error(diff)
	}
}

// TestDamage: no byte can be changed, and nothing cut off, without being noticed.
func TestDamage(t *testing.T) {
	whole := sample(t)
	none := func(Extent) error { return nil }
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 4
		if _, _, err := Read(bytes.NewReader(b), none); !fail.Is(err, fail.Damaged) && !fail.Is(err, fail.Unsupported) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, _, err := Read(bytes.NewReader(whole[:i]), none); !fail.Is(err, fail.Damaged) {
			t.Fatalf("cut off at %d: %v", i, err)
		}
	}
	if _, _, err := Read(bytes.NewReader(append(whole, 0)), none); !fail.Is(err, fail.Damaged) {
		t.Errorf("something behind the end: %v", err)
	}
	b := bytes.Clone(whole)
	b[4] = 9
	if _, _, err := Read(bytes.NewReader(b), none); !fail.Is(err, fail.Unsupported) {
		t.Errorf("a later version: %v", err)
	}
}

// TestSaved: a branch is there once its record is, and its files are those that it was saved with.
func TestSaved(t *testing.T) {
	state := t.TempDir()
	b := sampleBranch()
	if err := Make(state, b.ID); err != nil {
		t.Fatal(err)
	}
	v := &b.Volumes[0]
	if err := b.WriteVolume(state, v, fillSample); err != nil || v.Totals != sampleTotals {
		t.Fatal(v.Totals, err)
	}
	if all, err := List(state); err != nil || len(all) != 0 {
		t.Errorf("before its record: %v %v", all, err)
	}
	if err := b.Save(state); err != nil {
		t.Fatal(err)
	}
	if err := Make(state, b.ID); !fail.Is(err, fail.Exists) {
		t.Errorf("made anew: %v", err)
	}
	all, err := List(state)
	if err != nil || len(all) != 1 || all[0].Check(state, &all[0].Volumes[0]) != nil {
		t.Fatalf("%v %v", all, err)
	}
	other := *b
	other.Streams = []Stream{{ID: v.Stream, Base: change.Point{LSN: 41}}}
	if err := other.Check(state, v); !fail.Is(err, fail.Damaged) {
		t.Errorf("over another base: %v", err)
	}
	if err := os.Remove(b.Path(state, v)); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(state, v); !fail.Is(err, fail.Damaged) {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := Remove(state, b.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(state, b.ID); !fail.Is(err, fail.NotFound) {
		t.Errorf("removed: %v", err)
	}
	for _, id := range []string{"", "..", "../x", "."} {
		if _, err := Load(state, id); !fail.Is(err, fail.Invalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// FuzzRead: no file makes the decoder panic, or tell of an extent outside the volume.
func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Add(sample(f)[:headBytes+recordBytes])
	f.Add([]byte("PLXB"))
	head := sampleHead()
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, append(head.encode(), b...)} {
			end := int64(0)
			size := int64(0)
			h, totals, err := Read(bytes.NewReader(b), func(e Extent) error {
				if e.Off < end || e.Len <= 0 || e.Data != nil && int64(len(e.Data)) != e.Len {
					t.Fatalf("%d+%d behind %d", e.Off, e.Len, end)
				}
				end, size = e.Off+e.Len, size+e.Len
				return nil
			})
			if err == nil && (end > h.SizeBytes || totals.Bytes != size) {
				t.Fatalf("%+v ends at %d of %d", totals, end, h.SizeBytes)
			}
		}
	})
}
