package objstore

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/pollux-dr/pollux/internal/fail"
)

func (s *fileStore) List(ctx context.Context, prefix, after string, fn func(Info) error) error {
	const op = "list objects"
	if possible, err := checkList(op, prefix, after); err != nil || !possible {
		return errors.Join(err, fail.Wrap(fail.Retry, op, s.object(prefix), ctx.Err()))
	}
	l := &fileList{s: s, ctx: ctx, op: op, prefix: prefix, after: after, fn: fn}
	return l.walk("")
}

type fileList struct {
	s             *fileStore
	ctx           context.Context
	op            string
	prefix, after string
	fn            func(Info) error
}

// walk lists below dir, which is "" or ends in a slash. A directory is sorted
// with its slash, as the names of the objects in it are: "a.b" < "a/b" < "a0".
func (l *fileList) walk(dir string) error {
	if err := l.ctx.Err(); err != nil {
		return fail.Wrap(fail.Retry, l.op, l.s.object(dir), err)
	}
	names, err := l.s.fs.List(l.s.path(dir))
	if err != nil {
		if err = fileError(l.op, l.s.object(dir), err); fail.Is(err, fail.NotFound) && dir != "" {
			return nil // taken away meanwhile
		}
		return err
	}
	entries, err := l.entries(dir, names)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name, "/") {
			err = l.walk(e.Name)
		} else if err = l.ctx.Err(); err != nil {
			err = fail.Wrap(fail.Retry, l.op, l.s.object(e.Name), err)
		} else {
			err = l.fn(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entries looks up what of names the list wants, in order. A directory's entry
// has only its name, with the slash.
func (l *fileList) entries(dir string, names []string) ([]Info, error) {
	var out []Info
	for _, base := range names {
		name := dir + base
		// A directory may hold a wanted name although it is itself outside.
		inside := strings.HasPrefix(name, l.prefix) || strings.HasPrefix(l.prefix, name+"/")
		if base == "" || base[0] == '.' || !inside || name <= l.after && !strings.HasPrefix(l.after, name) {
			continue
		}
		st, err := l.s.fs.Stat(l.s.path(name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, fileError(l.op, l.s.object(name), err)
		case st.IsDir():
			out = append(out, Info{Name: name + "/"})
		case name > l.after && strings.HasPrefix(name, l.prefix):
			out = append(out, Info{Name: name, Bytes: st.Size(), Modified: st.ModTime()})
		}
	}
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
