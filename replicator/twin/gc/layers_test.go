package gc

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// counting counts what is read of maps.
type counting struct {
	objstore.Store
	reads atomic.Int64
}

func (c *counting) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	if strings.HasPrefix(name, "map/") {
		c.reads.Add(1)
	}
	return c.Store.Read(ctx, name, off, n, buf)
}

// TestManyCatalogs: without a retention that drops points, layers are as many as catalogs
// were made; what a point needs of them does not grow with that, and is what it was.
func TestManyCatalogs(t *testing.T) {
	l := newTestLog(t, false)
	for i := range int64(20) { // a whole layer that is large
		for k := range int64(10) {
			l.Frame(l.Write("v", (i*10+k)*1024, []byte{byte(i), byte(k), 1}))
		}
	}
	l.Segment()
	l.catalog()
	const catalogs = 100
	for i := range int64(catalogs) {
		l.Frame(l.Write("v", i*7%200*1024+i, []byte(fmt.Sprint(i))))
		if i%40 == 17 {
			l.Bookmark(fmt.Sprint("b", i))
			l.Frame(l.Write("v", i*1024, []byte{2}))
		}
		l.Segment()
		l.catalog()
	}
	const most = 8 // of some 350 extents
	in := l.open()
	v, err := in.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	layers := in.Catalog.Streams[v.Stream].Volumes[v.Number].Layers
	made := int64(0)
	for i := range layers {
		made += layers[i].Extents()
	}
	if len(layers) < catalogs {
		t.Fatalf("%d layers", len(layers))
	}
	for _, k := range in.Catalog.Streams[v.Stream].Retained {
		if n := len(in.Catalog.LayersAt(v.Stream, v.Number, k.LSN)); n > most {
			t.Errorf("%d layers make up LSN %d", n, k.LSN)
		}
	}
	if made > catalogs*20 {
		t.Errorf("%d extents were written for %d changes", made, catalogs)
	}
	c := &counting{Store: l.Store}
	log, err := twin.Open(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := log.Resolve(t.Context(), v, "", l.Clock)
	if err != nil {
		t.Fatal(err)
	}
	im, err := log.Image(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = im.Close() }()
	if _, err := im.Map.Leaf(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n := c.reads.Load(); n > 2*most {
		t.Errorf("%d requests for the first leaf", n)
	}
	l.check(in, l.all())
}
