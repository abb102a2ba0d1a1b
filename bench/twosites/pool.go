package twosites

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pollux-dr/pollux/internal/fail"
)

// poolBytes is how much of a file tree is read.
const poolBytes = 64 << 20

// ReadPool reads the beginning of a file tree of this machine, as a tar archive: what is written to
// volumes.
func ReadPool() (pool []byte, tree string, err error) {
	for _, dir := range []string{os.Getenv("GOROOT"), "/usr/local/go", "/usr/lib/go", "/usr/share", "/usr/lib"} {
		if st, err := os.Stat(dir); dir == "" || err != nil || !st.IsDir() {
			continue
		}
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(tarTree(pw, dir)) }()
		pool = make([]byte, poolBytes)
		n, err := io.ReadFull(pr, pool)
		_ = pr.Close()
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return nil, dir, fail.Wrap(fail.Denied, "read", dir, err)
		}
		if n >= 4*maxOpBytes {
			return pool[:n], dir, nil
		}
	}
	return nil, "", fail.New(fail.NotFound, "find", "a file tree", "neither Go's nor /usr/share is here")
}

// tarTree packs regular files; those that cannot be read are left out.
func tarTree(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return nil
		}
		if h.Name, err = filepath.Rel(dir, path); err != nil {
			return nil
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.CopyN(t, f, h.Size)
		return err
	})
	if err != nil {
		return err
	}
	return t.Close()
}
