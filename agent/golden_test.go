package agent

import (
	"io"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/golden"
)

var (
	goldenStream = uuid.MustParse("51000000-0000-4000-8000-000000000001")
	goldenPoint  = change.Point{LSN: 42, Hash: change.Hash{0xaa, 15: 0xbb}}
)

// goldenMaps are the bitmaps of a small volume and of one whose granules are larger.
func goldenMaps() map[uint32]*dirtyMap {
	small, large := newDirtyMap(100*minGranuleBytes), newDirtyMap(1<<40)
	small.words[0], small.words[1] = 0b1011, 1<<35
	for i := range 100 {
		large.words[i*7] = 1<<63 | 1
	}
	return map[uint32]*dirtyMap{2: small, 7: large}
}

// TestGoldenFiles: the agent's small files say what they said.
func TestGoldenFiles(t *testing.T) {
	manifestWant := manifest{Version: 1, Agent: "host-a", Journal: "50000000-0000-4000-8000-000000000001",
		Streams: []StreamConf{{ID: goldenStream, Number: 1, Group: "db", Paused: true,
			Policy: Policy{Ack: AckRemote, OnLoss: LossDegrade, Overflow: OverflowBitmap}}},
		Volumes: []VolumeConf{{Name: "data", Number: 2, Group: "db", Stream: goldenStream, SizeBytes: 1 << 30,
			Backing: "/srv/data.img", Ready: true, Resync: true, ReadyLSN: 17,
			Mark: "0123456789abcdef", Accepted: true}, {Name: "new", Number: 3, Group: "db",
			Stream: goldenStream, SizeBytes: 4096, Backing: "/dev/sdx"}}}
	for _, v := range []struct {
		name string
		want any
		same bool
	}{
		{"agent.json", manifestWant, true},
		{"stream.json", checkpoint{Version: 1, Applied: goldenPoint, Committed: change.Point{LSN: 40,
			Hash: change.Hash{1}}, Lease: change.Lease{Epoch: 1, Number: 3},
			Time: 1_795_000_000_000_000_001, Gone: &lagMark{Last: 41, Time: 1_794_000_000_000_000_001,
				Bytes: 12345}}, true},
		{"overflow.json", overflowFile{Version: 1, Upto: goldenPoint, Known: []change.Point{{LSN: 30,
			Hash: change.Hash{3}}, {LSN: 35, Hash: change.Hash{4}}},
			Since: 1_794_000_000_000_000_001, Volumes: packMaps(goldenMaps())}, false},
		{"changes.json", spilledFile{Version: 1, After: 20, Upto: 42, Volumes: packMaps(goldenMaps())}, false},
	} {
		today := func() []byte {
			fs := vfs.NewMem()
			if err := saveMeta(fs, v.name, v.want); err != nil {
				t.Fatal(err)
			}
			f, err := fs.Open(v.name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b, err := io.ReadAll(f)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		b := golden.Kept(t, v.name, today)
		if v.same { // the others are compressed
			golden.Same(t, v.name, today())
		}
		fs := vfs.NewMem()
		if err := atomicfile.WriteFile(fs, v.name, b); err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(v.want))
		if found, err := loadMeta(fs, v.name, got.Interface()); err != nil || !found {
			t.Errorf("%s: found %v, %v", v.name, found, err)
			continue
		}
		switch got := got.Elem().Interface().(type) {
		case overflowFile:
			checkGoldenMaps(t, v.name, got.Volumes)
			want := v.want.(overflowFile)
			got.Volumes, want.Volumes = nil, nil
			diffGolden(t, v.name, want, got)
		case spilledFile:
			checkGoldenMaps(t, v.name, got.Volumes)
			want := v.want.(spilledFile)
			got.Volumes, want.Volumes = nil, nil
			diffGolden(t, v.name, want, got)
		default:
			diffGolden(t, v.name, v.want, got)
		}
	}
}

func diffGolden(t *testing.T, name string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(lagMark{})); diff != "" {
		t.Errorf("%s means something else: %s", filepath.Base(name), diff)
	}
}

func checkGoldenMaps(t *testing.T, name string, packed []volumeBits) {
	t.Helper()
	maps, err := unpackMaps(name, packed)
	if err != nil || !reflect.DeepEqual(goldenMaps(), maps) {
		t.Errorf("%s has other bitmaps: %v", name, err)
	}
}
