package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// putFile is write or writeNew.
type putFile func(path string, b []byte, mode os.FileMode) error

// write puts b in place of whatever is at path.
func write(path string, b []byte, mode os.FileMode) error { return put(path, b, mode, os.Rename) }

// writeNew is write where nothing is at path; else it is fail.Exists.
func writeNew(path string, b []byte, mode os.FileMode) error {
	err := put(path, b, mode, func(from, to string) error {
		if err := os.Link(from, to); err != nil { // which replaces nothing
			return err
		}
		return os.Remove(from)
	})
	if errors.Is(err, os.ErrExist) {
		return exists(path)
	}
	return err
}

func exists(path string) error {
	return fail.New(fail.Exists, "write", path, "it is there already").
		WithHint("--replace puts a new key and certificate in place of the old ones")
}

// put writes b to a file that nobody else can have made or opened before, and moves that
// to path: whoever may write into the directory cannot have the key written to a file of
// theirs.
func put(path string, b []byte, mode os.FileMode, move func(from, to string) error) error {
	// exclusively, mode 0600
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*"+atomicfile.TempSuffix)
	if err != nil {
		return fail.Wrap(fail.Denied, "write", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = move(f.Name(), path)
	}
	if err == nil {
		err = atomicfile.SyncDir(vfs.Default, filepath.Dir(path))
	} else {
		_ = os.Remove(f.Name())
	}
	return fail.Wrap(fail.Denied, "write", path, err)
}

func writeKey(put putFile, path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fail.Wrap(fail.Internal, "encode", path, err)
	}
	return put(path, encodePEM("PRIVATE KEY", der), 0o600)
}
