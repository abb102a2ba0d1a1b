package layering

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// sources are the files of the tree that end in one of the extensions, but for those below
// testdata.
func sources(t *testing.T, extensions ...string) (out []string) {
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "vendor" ||
			strings.HasPrefix(d.Name(), ".") && d.Name() != ".." && path != "../..") {
			return filepath.SkipDir
		}
		for _, e := range extensions {
			if !d.IsDir() && strings.HasSuffix(path, e) {
				out = append(out, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
