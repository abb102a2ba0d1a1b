package atomicfile

import (
	"errors"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TempSuffix ends the names of files that are not yet complete. What a crash
// leaves of them may be removed.
const TempSuffix = ".tmp"

// WriteFile replaces path by b: written aside, synced, renamed, and the directory
// synced.
func WriteFile(fs vfs.FS, path string, b []byte) error {
	f, err := fs.Create(path+TempSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return Finish(fs, f, path, err)
}

// Finish is the rest of WriteFile, for a file that was written piece by piece to
// path+TempSuffix with the outcome err.
func Finish(fs vfs.FS, f vfs.File, path string, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(path+TempSuffix, path); err != nil {
		return err
	}
	return SyncDir(fs, fs.PathDir(path))
}

// Remove removes a file for good; one that is not there is none.
func Remove(fs vfs.FS, path string) error {
	if err := fs.Remove(path); err != nil {
		if oserror.IsNotExist(err) {
			return nil
		}
		return err
	}
	return SyncDir(fs, fs.PathDir(path))
}

// SyncDir makes the names in a directory durable.
func SyncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
