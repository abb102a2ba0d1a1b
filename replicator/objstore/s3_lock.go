package objstore

import (
	"context"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Source: Amazon S3 User Guide, "Locking objects with Object Lock".

const (
	lockModeHeader  = "x-amz-object-lock-mode"
	lockUntilHeader = "x-amz-object-lock-retain-until-date"
)

// Lock asks by a HEAD, the only request in whose answer all servers name the date.
func (s *s3Store) Lock(ctx context.Context, name string) (Lock, error) {
	const op = "retention of object"
	if err := s.check(ctx, op, name); err != nil {
		return Lock{}, err
	}
	version, err := s.first(ctx, op, name)
	if err != nil {
		return Lock{}, err
	}
	a := s.attempt(ctx)
	defer a.end()
	info, err := s.core.StatObject(a.ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		// A HEAD's answer has no body to say what is not there.
		if _, err := s.Size(ctx, name); err != nil {
			return Lock{}, err
		}
		return Lock{}, s.error(a, op, name, err)
	}
	l := Lock{Created: info.LastModified}
	if mode := info.Metadata.Get(lockModeHeader); mode != "" {
		until, err := time.Parse(time.RFC3339, info.Metadata.Get(lockUntilHeader))
		if err != nil {
			return Lock{}, fail.Wrap(fail.Retry, op, s.object(name), err)
		}
		l.Mode, l.Until = mode, until
	}
	return l, nil
}

// LockRule returns the bucket's default retention. A server that knows no such thing
// has none.
func (s *s3Store) LockRule(ctx context.Context) (LockRule, error) {
	const op = "read Object Lock rule"
	a := s.attempt(ctx)
	defer a.end()
	_, mode, validity, unit, err := s.core.Client.GetObjectLockConfig(a.ctx, s.bucket)
	if err = s.error(a, op, "", err); err != nil {
		if fail.Is(err, fail.Retry) || fail.Is(err, fail.Denied) {
			return LockRule{}, err
		}
		return LockRule{}, nil
	}
	if mode == nil || validity == nil || unit == nil {
		return LockRule{}, nil
	}
	days := time.Duration(*validity)
	if *unit == minio.Years {
		days *= 365
	}
	return LockRule{Mode: string(*mode), For: days * 24 * time.Hour}, nil
}

func (s *s3Store) Extend(ctx context.Context, name string, l Lock) error {
	const op = opExtend
	err := s.extend(ctx, op, name, l)
	if !fail.Is(err, fail.Denied) && !fail.Is(err, fail.Invalid) {
		return err
	}
	// A date is never made earlier, and a mode never weaker: neither is needed.
	is, lerr := s.Lock(ctx, name)
	switch {
	case lerr != nil || is.Mode == "":
		return err
	case !is.Until.Before(l.Until):
		return nil
	case is.Mode != l.Mode:
		l.Mode = is.Mode
		return s.extend(ctx, op, name, l)
	}
	return err
}

func (s *s3Store) extend(ctx context.Context, op, name string, l Lock) error {
	if err := s.check(ctx, op, name); err != nil {
		return err
	}
	version, err := s.first(ctx, op, name)
	if err != nil {
		return err
	}
	a := s.attempt(ctx)
	defer a.end()
	mode, until := minio.RetentionMode(l.Mode), l.Until.UTC().Truncate(time.Second)
	err = s.core.Client.PutObjectRetention(a.ctx, s.bucket, s.prefix+name,
		minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, VersionID: version})
	return s.error(a, op, name, err)
}

// remove deletes all versions of an object, and markers, so that its bytes are gone. A
// delete without a version would only hide them behind a marker, and a name with a
// marker can be created again.
func (s *s3Store) remove(ctx context.Context, op, name string) error {
	versions, err := s.versions(ctx, op, name)
	if err != nil {
		return err
	}
	for _, v := range versions {
		a := s.attempt(ctx)
		err := s.core.Client.RemoveObject(a.ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{VersionID: v.id})
		err = s.error(a, op, name, err)
		a.end()
		if err != nil {
			return err
		}
	}
	return nil
}

// first is the version that Create made: whoever has put another one on top of it since,
// or a delete marker, is not Pollux. "" is what there is without versions.
func (s *s3Store) first(ctx context.Context, op, name string) (string, error) {
	versions, err := s.versions(ctx, op, name)
	for _, v := range slices.Backward(versions) {
		if !v.marker {
			return v.id, err
		}
	}
	return "", err
}

// version is one of an object. Without versions its id is "".
type version struct {
	id     string
	marker bool // of a delete
}

// versions lists an object's versions and delete markers, the newest first. In a bucket
// that never had versions, and where these credentials may not ask, it is "" alone.
func (s *s3Store) versions(ctx context.Context, op, name string) (out []version, err error) {
	if has, err := s.hasVersions(ctx, op); err != nil || !has {
		return []version{{}}, err
	}
	const most = 1000 // Pollux makes one
	a := s.attempt(ctx)
	defer a.end()
	for o := range s.core.Client.ListObjectsIter(a.ctx, s.bucket,
		minio.ListObjectsOptions{Prefix: s.prefix + name, Recursive: true, WithVersions: true, MaxKeys: most}) {
		if o.Err != nil {
			err := s.error(a, op, name, o.Err)
			if fail.Is(err, fail.Denied) {
				return []version{{}}, nil
			}
			return nil, err
		}
		if o.Key != s.prefix+name {
			continue // a longer name
		}
		v := version{o.VersionID, o.IsDeleteMarker}
		if v.id == "" {
			v.id = "null" // made while the bucket had no versions
		}
		if out = append(out, v); len(out) > most {
			return nil, fail.New(fail.Invalid, op, s.object(name), "it has more than a thousand versions").
				WithHint("who else writes to this bucket?")
		}
	}
	return out, s.error(a, op, name, a.ctx.Err())
}

// hasVersions reports whether objects of the bucket may have versions: they are, or
// were, switched on. It is asked once a minute.
func (s *s3Store) hasVersions(ctx context.Context, op string) (bool, error) {
	s.versioned.Lock()
	defer s.versioned.Unlock()
	if time.Since(s.versioned.asked) < time.Minute {
		return s.versioned.on, nil
	}
	a := s.attempt(ctx)
	defer a.end()
	c, err := s.core.Client.GetBucketVersioning(a.ctx, s.bucket)
	if err = s.error(a, op, "", err); fail.Is(err, fail.Retry) {
		return false, err
	}
	s.versioned.on = (err == nil && c.Status != "") || fail.Is(err, fail.Denied)
	s.versioned.asked = time.Now()
	return s.versioned.on, nil
}
