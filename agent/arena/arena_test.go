package arena

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

func openTest(t *testing.T, path, owner string) (*Arena, []Recovered, bool) {
	t.Helper()
	a, found, kept, err := Open(Options{Path: path, Bytes: MinBytes, Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	return a, found, kept
}

func fill(a *Arena, b Buf, data []byte) {
	for _, p := range a.Pieces(nil, b) {
		data = data[copy(p, data):]
	}
}

// TestWritesOutliveTheProcess commits writes of all sizes, frees some, drops the
// mapping as a killed process would, and finds exactly the rest again, twice.
func TestWritesOutliveTheProcess(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "arena")
	a, found, kept := openTest(t, path, "me")
	if kept || len(found) != 0 {
		t.Fatalf("a new arena: kept %v, %d writes", kept, len(found))
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	want := map[uint64][]byte{}
	for lsn := uint64(1); lsn <= 60; lsn++ {
		data := make([]byte, 1+rnd.IntN(3*ChunkBytes))
		for i := range data {
			data[i] = byte(rnd.Uint32())
		}
		if lsn%3 == 0 {
			data = data[:1+len(data)%900]
		}
		b, err := a.Alloc(ctx, len(data))
		if err != nil {
			t.Fatal(err)
		}
		fill(a, b, data)
		slot, err := a.AllocSlot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		e := Entry{Stream: 7, LSN: lsn, Kind: change.Write, Volume: 3,
			Off: int64(lsn) * 512, Len: uint32(len(data)), Time: 42, Buf: b}
		a.Commit(slot, &e)
		if lsn%2 == 0 {
			a.Free([]Item{{slot, b}})
		} else {
			want[lsn] = data
		}
		if lsn > 20 { // keep it within its memory
			delete(want, lsn)
			if lsn%2 == 1 {
				a.Free([]Item{{slot, b}})
			}
		}
	}
	for round := range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if a, found, kept = openTest(t, path, "me"); !kept || len(found) != len(want) {
			t.Fatalf("round %d: kept %v, %d writes, want %d", round, kept, len(found), len(want))
		}
		last := uint64(0)
		for _, f := range found {
			got := make([]byte, f.Buf.Len)
			a.CopyOut(got, f.Buf, 0)
			if f.LSN <= last || f.Stream != 7 || f.Volume != 3 || !bytes.Equal(got, want[f.LSN]) {
				t.Fatalf("round %d: write %d came back wrong or out of order", round, f.LSN)
			}
			last = f.LSN
		}
	}
	var items []Item
	for _, f := range found {
		items = append(items, Item{f.Slot, f.Buf})
	}
	a.Free(items)
	if u := a.Usage(); u.UsedBytes != 0 {
		t.Errorf("%d bytes are still taken after all was freed", u.UsedBytes)
	}
	_ = a.Close()
}

func TestAnotherOwnerStartsEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arena")
	a, _, _ := openTest(t, path, "me")
	slot, _ := a.AllocSlot(context.Background())
	a.Commit(slot, &Entry{LSN: 1, Kind: change.Trim, Len: 512})
	_ = a.Close()
	b, found, kept := openTest(t, path, "you")
	defer b.Close()
	if kept || len(found) != 0 {
		t.Errorf("another owner's writes were taken over: kept %v, %d", kept, len(found))
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arena")
	a, _, _ := openTest(t, path, "me")
	defer a.Close()
	if _, _, _, err := Open(Options{Path: path, Bytes: MinBytes, Owner: "me"}); !fail.Is(err, fail.Refused) {
		t.Errorf("a second one got %v", err)
	}
}

// TestFullArenaWaits: a writer waits for memory, says so, and goes on when some
// is freed; its context ends the wait.
func TestFullArenaWaits(t *testing.T) {
	pressed := make(chan struct{}, 100)
	a, _, _, err := Open(Options{Path: filepath.Join(t.TempDir(), "arena"), Bytes: MinBytes, Owner: "me",
		Pressure: func() { pressed <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var held []Buf
	for range MinBytes / (1 << 20) {
		b, err := a.Alloc(context.Background(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { _, err := a.Alloc(ctx, 4096); done <- err }()
	<-pressed
	cancel()
	if err := <-done; err == nil {
		t.Error("the wait did not end with its context")
	}
	go func() { _, err := a.Alloc(context.Background(), 4096); done <- err }()
	<-pressed
	a.ReleaseBuf(held[0])
	if err := <-done; err != nil {
		t.Errorf("after memory was freed: %v", err)
	}
}

func TestDamagedSlotDoesNotCount(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arena")
	a, _, _ := openTest(t, path, "me")
	slot, _ := a.AllocSlot(context.Background())
	a.Commit(slot, &Entry{LSN: 1, Kind: change.Trim, Len: 512})
	_ = a.Close()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{99}, headBytes+int64(slot)*slotBytes+16); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	b, found, kept := openTest(t, path, "me")
	defer b.Close()
	if !kept || len(found) != 0 {
		t.Errorf("kept %v, %d writes; a slot that fails its checksum is none", kept, len(found))
	}
}

// TestForeignFileIsRefused: what another user could have made or can change is neither
// read, nor written to, nor taken for acknowledged writes.
func TestForeignFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path, precious := filepath.Join(dir, "arena"), filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(precious, path); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		a, found, _, err := Open(Options{Path: path, Bytes: MinBytes, Owner: "me"})
		if err == nil {
			_ = a.Close()
		}
		if !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" || len(found) != 0 {
			t.Errorf("%s: %d writes, %v", what, len(found), err)
		}
	}
	refused("a symbolic link")
	if b, err := os.ReadFile(precious); err != nil || string(b) != "precious" {
		t.Errorf("the link's target has %d bytes, %v", len(b), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a, _, _ := openTest(t, path, "me")
	slot, _ := a.AllocSlot(context.Background())
	a.Commit(slot, &Entry{LSN: 1, Kind: change.Trim, Len: 512})
	_ = a.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	refused("a file that others can write to")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	a, found, kept := openTest(t, path, "me")
	defer a.Close()
	if !kept || len(found) != 1 {
		t.Errorf("a refused file was touched: kept %v, %d writes", kept, len(found))
	}
}

func TestTooSmall(t *testing.T) {
	small := Options{Path: filepath.Join(t.TempDir(), "arena"), Bytes: MinBytes - 1, Owner: "me"}
	if _, _, _, err := Open(small); !fail.Is(err, fail.Invalid) {
		t.Errorf("%v", err)
	}
}

// TestAnotherSize: a start with another memory setting uses the arena as it is while
// there are writes in it, and makes a new one once it is empty.
func TestAnotherSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "arena")
	a, _, _ := openTest(t, path, "me")
	slot, _ := a.AllocSlot(context.Background())
	a.Commit(slot, &Entry{LSN: 1, Kind: change.Trim, Len: 512})
	_ = a.Close()
	for _, want := range []struct {
		found int
		total int64
		kept  bool
	}{{1, MinBytes, true}, {0, 2 * MinBytes, false}, {0, 2 * MinBytes, true}} {
		a, found, kept, err := Open(Options{Path: path, Bytes: 2 * MinBytes, Owner: "me"})
		if err != nil {
			t.Fatal(err)
		}
		if u := a.Usage(); len(found) != want.found || kept != want.kept ||
			u.TotalBytes != want.total || u.UsedBytes != 0 {
			t.Errorf("%d writes, kept %v, %+v; want %+v", len(found), kept, u, want)
		}
		for _, f := range found {
			a.Free([]Item{{f.Slot, f.Buf}})
		}
		_ = a.Close()
	}
}
