package objstore

import (
	"context"
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
// Where the object has none of its own, the bucket's rule holds: most servers put that
// into the object, not all.
func (s *s3Store) Lock(ctx context.Context, name string) (Lock, error) {
	const op = "retention of object"
	if err := s.check(ctx, op, name); err != nil {
		return Lock{}, err
	}
	a := s.attempt(ctx, 0)
	defer a.end()
	info, err := s.core.StatObject(a.ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
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
		return l, nil
	}
	if info.VersionID == "" || info.VersionID == "null" {
		return l, nil // a lock needs versions
	}
	rule, err := s.rule(a)
	if err == nil && rule.Mode != "" {
		l.Mode, l.Until = rule.Mode, l.Created.Add(rule.For)
	}
	return l, s.error(a, op, name, err)
}

// rule returns the bucket's default retention.
func (s *s3Store) rule(a *attempt) (LockRule, error) {
	_, mode, validity, unit, err := s.core.Client.GetObjectLockConfig(a.ctx, s.bucket)
	if code := minio.ToErrorResponse(err).Code; code == "ObjectLockConfigurationNotFoundError" || code == "NoSuchObjectLockConfiguration" {
		return LockRule{}, nil
	}
	if err != nil || mode == nil || validity == nil || unit == nil {
		return LockRule{}, err
	}
	days := time.Duration(*validity)
	if *unit == minio.Years {
		days *= 365
	}
	return LockRule{Mode: string(*mode), For: days * 24 * time.Hour}, nil
}

func (s *s3Store) Extend(ctx context.Context, name string, l Lock) error {
	const op = "extend retention of object"
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
	a := s.attempt(ctx, 0)
	defer a.end()
	mode, until := minio.RetentionMode(l.Mode), l.Until.UTC().Truncate(time.Second)
	err := s.core.Client.PutObjectRetention(a.ctx, s.bucket, s.prefix+name, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	return s.error(a, op, name, err)
}

// remove deletes all versions of an object, so that its bytes are gone. A delete
// without a version would only hide them behind a marker, and a name with a marker can
// be created again.
func (s *s3Store) remove(ctx context.Context, op, name string) error {
	const most = 100 // versions: Pollux makes one
	for range most {
		version, err := s.version(ctx, op, name)
		if err != nil {
			return err
		}
		a := s.attempt(ctx, 0)
		err = s.core.Client.RemoveObject(a.ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{VersionID: version})
		err = s.error(a, op, name, err)
		a.end()
		if err != nil || version == "" {
			return err
		}
	}
	return fail.New(fail.Invalid, op, s.object(name), "it still has versions after many were deleted").WithHint("who else writes to this bucket?")
}

// version is that of the object that Read reads; "" in a bucket without versions.
func (s *s3Store) version(ctx context.Context, op, name string) (string, error) {
	if s.unversioned.Load() {
		return "", nil
	}
	a := s.attempt(ctx, 0)
	defer a.end()
	r, err := s.get(a, name, byteRange(0, 1))
	if outOfRange(err) {
		r, err = s.get(a, name, "")
	}
	if err != nil {
		return "", s.error(a, op, name, err)
	}
	_ = r.body.Close()
	if r.version == "" {
		s.unversioned.Store(true)
	}
	return r.version, nil
}
