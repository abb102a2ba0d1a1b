package arena

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
)

const goldenOwner = "host-a /var/lib/pollux"

// goldenBoot is put in place of the boot id, which is the machine's.
const goldenBoot = "00000000-0000-4000-8000-00000000b007"

// goldenWrites are a small write, one over several chunks, zeros and a trim.
func goldenWrites() []Entry {
	return []Entry{
		{Stream: 1, LSN: 7, Kind: change.Write, Volume: 2, Off: 4096, Len: 512, Time: 1_795_000_000_000_000_001,
			Buf: Buf{Len: 512}},
		{Stream: 1, LSN: 8, Kind: change.Zero, Volume: 2, Off: 1 << 30, Len: 1 << 20, Time: 1_795_000_000_000_000_002},
		{Stream: 1, LSN: 9, Kind: change.Write, Volume: 3, Off: 0, Len: 2*ChunkBytes + 100,
			Time: 1_795_000_000_000_000_003, Buf: Buf{Len: 2*ChunkBytes + 100}},
		{Stream: 4, LSN: 1, Kind: change.Trim, Volume: 5, Off: 512, Len: 512, Time: 1_795_000_000_000_000_004},
	}
}

func goldenBytes(e *Entry) []byte { return bytes.Repeat([]byte{byte(e.LSN), 'x'}, e.Buf.Len/2) }

// goldenArena is the file of an agent that died with acknowledged writes in memory.
func goldenArena(t *testing.T) []byte {
	path := filepath.Join(t.TempDir(), "arena")
	a, _, _ := openTest(t, path, goldenOwner)
	var freed []Item
	for _, e := range goldenWrites() {
		for range 2 { // of which the first is applied, and its place free again
			if n := e.Buf.Len; n > 0 {
				b, err := a.Alloc(t.Context(), n)
				if err != nil {
					t.Fatal(err)
				}
				e.Buf = b
				fill(a, b, goldenBytes(&e))
			}
			slot, err := a.AllocSlot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a.Commit(slot, &e)
			freed = append(freed, Item{slot, e.Buf})
		}
		a.Free(freed[len(freed)-2 : len(freed)-1])
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, makeHead(MinBytes/ChunkBytes, goldenOwner, goldenBoot))
	return b
}

// TestGoldenArena: the writes in the arena of an earlier build are found.
func TestGoldenArena(t *testing.T) {
	b := golden.Same(t, "arena.zst", goldenArena(t))
	if !bytes.Equal(b[:512], makeHead(MinBytes/ChunkBytes, goldenOwner, goldenBoot)) {
		t.Error("its head would not be taken over")
	}
	copy(b, makeHead(MinBytes/ChunkBytes, goldenOwner, bootID())) // as if it were of this boot
	path := filepath.Join(t.TempDir(), "arena")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	a, found, kept := openTest(t, path, goldenOwner)
	defer a.Close()
	if !kept || len(found) != 4 {
		t.Fatalf("%d writes, kept %v", len(found), kept)
	}
	for i, want := range goldenWrites() {
		got := found[i].Entry
		data := make([]byte, got.Buf.Len)
		if len(data) > 0 {
			a.CopyOut(data, got.Buf, 0)
		}
		got.Buf.Addr = 0
		if diff := cmp.Diff(want, got); diff != "" || !bytes.Equal(data, goldenBytes(&want)) {
			t.Errorf("write %d is another one, or has other bytes: %s", i, diff)
		}
	}
}
