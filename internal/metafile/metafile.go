package metafile

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Version is the one that every record states in its field "version".
const Version = 1

// maxBytes bounds what Load reads: an agent's bitmaps are the longest.
const maxBytes = 1 << 30

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Save writes v, whose field "version" is Version, atomically and durably. Errors are fail.Full.
func Save(fs vfs.FS, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fail.Wrap(fail.Internal, "save", path, err)
	}
	text := fmt.Sprintf("%s\ncrc32c %08x\n", b, crc32.Checksum(b, castagnoli))
	return fail.Wrap(fail.Full, "save", path, atomicfile.WriteFile(fs, path, []byte(text)))
}

// Load reads what Save wrote; found is false where there is no file. Errors: fail.Damaged with
// hint where it is not what was written, fail.Unsupported where another version wrote it.
func Load(fs vfs.FS, path, hint string, v any) (found bool, err error) {
	f, err := fs.Open(path)
	if err != nil {
		if oserror.IsNotExist(err) {
			return false, nil
		}
		return false, fail.Wrap(fail.Denied, "load", path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBytes))
	if err != nil {
		return false, fail.Wrap(fail.Internal, "load", path, err)
	}
	body, tail, ok := strings.Cut(string(b), "\n")
	if !ok || tail != fmt.Sprintf("crc32c %08x\n", crc32.Checksum([]byte(body), castagnoli)) {
		return false, fail.New(fail.Damaged, "load", path, "checksum does not match").WithHint(hint)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal([]byte(body), &head); err != nil {
		return false, fail.Wrap(fail.Damaged, "load", path, err)
	}
	if head.Version != Version {
		return false, fail.New(fail.Unsupported, "load", path,
			fmt.Sprintf("version %d; this build reads %d", head.Version, Version))
	}
	return true, fail.Wrap(fail.Damaged, "load", path, json.Unmarshal([]byte(body), v))
}
