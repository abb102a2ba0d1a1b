package objstoretest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

func names(t *testing.T, s objstore.Store, prefix, after string) []string {
	t.Helper()
	var out []string
	if err := s.List(t.Context(), prefix, after, func(i objstore.Info) error {
		out = append(out, i.Name)
		return nil
	}); err != nil {
		t.Fatalf("list prefix %q after %q: %v", prefix, after, err)
	}
	return out
}

func testNames(t *testing.T, s objstore.Store) {
	long := strings.Repeat("l", 200)
	for _, name := range []string{"x", "0", "log/00000000000000000042", "a/b/c/d/e/f", "A/a", "a.b-c_d=e", "a/b..c",
		long + "/" + long} {
		create(t, s, name, []byte(name))
		if b := read(t, s, name, 0, -1); string(b) != name {
			t.Errorf("%s has the content %q", name, b)
		}
	}
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".tmp/x", "a b",
		"a\x00b", "a\\b", "a%2fb", "é",
		strings.Repeat("a", 201), strings.Repeat("a/", 400) + "a"} {
		_, readErr := s.Read(t.Context(), name, 0, -1, nil)
		_, sizeErr := s.Size(t.Context(), name)
		wantKind(t, fmt.Sprintf("create %q", name), s.Create(t.Context(), name, nil), fail.Invalid)
		wantKind(t, fmt.Sprintf("read %q", name), readErr, fail.Invalid)
		wantKind(t, fmt.Sprintf("size of %q", name), sizeErr, fail.Invalid)
		wantKind(t, fmt.Sprintf("delete %q", name), s.Delete(t.Context(), name), fail.Invalid)
	}
	if u := s.URL(); u == "" || strings.Contains(u, "@") {
		t.Errorf("URL %q", u)
	}
}

func testList(t *testing.T, s objstore.Store) {
	if got := names(t, s, "", ""); len(got) != 0 {
		t.Fatalf("a new store lists %q", got)
	}
	// Directories and files whose order differs from that of their names.
	all := []string{"a-b", "a.b", "a/b", "a0", "a/c/d", "a/c-d", "b", "log/1", "log/10", "log/2", "log-x", "log0",
		"A", "z/z/z"}
	slices.Sort(all)
	begin := time.Now()
	for i, name := range all {
		create(t, s, name, make([]byte, i+1))
	}
	i := 0
	if err := s.List(t.Context(), "", "", func(info objstore.Info) error {
		if i >= len(all) || info.Name != all[i] || info.Bytes != int64(i+1) {
			t.Errorf("entry %d: %+v", i, info)
		}
		if age := info.Modified.Sub(begin); age < -time.Minute || age > time.Hour {
			t.Errorf("%s was modified at %v", info.Name, info.Modified)
		}
		i++
		return nil
	}); err != nil || i != len(all) {
		t.Fatalf("list: %v, %d entries, want %d", err, i, len(all))
	}
	prefixes := []string{"", "a", "a/", "a/c", "a/c/", "a/c/d", "a/c/d/", "log", "log/", "log/1", "b", "b/", "zz",
		"z/z", "/", "a//", ".", "A"}
	afters := append([]string{"", "a", "a/", "a/c", "a/c/", "a/b/x", "a0/x", "log/", "log/00", "zzz", "A/", "0"},
		all...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			var want []string
			for _, name := range all {
				if strings.HasPrefix(name, prefix) && name > after {
					want = append(want, name)
				}
			}
			if diff := cmp.Diff(want, names(t, s, prefix, after)); diff != "" {
				t.Errorf("prefix %q after %q (-want +got):\n%s", prefix, after, diff)
			}
		}
	}
}

func testListPages(t *testing.T, s objstore.Store) {
	const count = 1200 // more than a page of S3
	var want []string
	var g errgroup.Group
	g.SetLimit(16)
	for i := range count {
		name := fmt.Sprintf("log/%020d", i)
		want = append(want, name)
		g.Go(func() error { return s.Create(t.Context(), name, []byte{1}) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s, "log/", ""); !slices.Equal(got, want) {
		t.Errorf("list has %d names, want %d", len(got), count)
	}
	if got := names(t, s, "log/", want[1020]); !slices.Equal(got, want[1021:]) {
		t.Errorf("list after 1020 has %d names, want %d", len(got), count-1021)
	}
}

func testListStop(t *testing.T, s objstore.Store) {
	for i := range 5 {
		create(t, s, fmt.Sprintf("log/%d", i), nil)
	}
	stop := errors.New("stop")
	seen := 0
	err := s.List(t.Context(), "", "", func(objstore.Info) error {
		if seen++; seen == 3 {
			return stop
		}
		return nil
	})
	if err != stop || seen != 3 {
		t.Errorf("stopped list: %v after %d", err, seen)
	}
}
