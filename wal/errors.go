package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/pollux-dr/pollux/internal/fail"
)

var (
	// ErrFull is in the chain of the fail.Full error that an append gets when
	// the budget (and, for AppendReserved, the reserve) is used up.
	ErrFull = errors.New("the log's budget is used up")
	// ErrPoisoned is in the chain of the fail.Refused error that everything but
	// reading returns after a failed write or fsync.
	ErrPoisoned = errors.New("the log is poisoned by a failed write or sync")
	// ErrClosed is in the chain of the fail.Refused error of a closed log.
	ErrClosed = errors.New("the log is closed")
	// ErrReadOnly is in the chain of the fail.Refused error of a log opened with ReadOnly.
	ErrReadOnly = errors.New("the log is open read-only")
)

const poisonHint = "restart; the log re-reads what is really there"

func poisonedError(op, file string, cause error) error {
	return (&fail.Error{Kind: fail.Refused, Op: op, Object: file, Err: fmt.Errorf("%w: %w", ErrPoisoned, cause)}).
		WithHint(poisonHint)
}

// damaged names the file and the byte from which on it cannot be believed.
func damaged(op, file string, offsetBytes int64, why error) error {
	return (&fail.Error{Kind: fail.Damaged, Op: op, Object: fmt.Sprintf("%s at byte %d", file, offsetBytes), Err: why}).
		WithHint("the log's data is damaged on disk: restore from the object store; `pollux dump wal` shows " +
			"what is left")
}

// isNoSpace reports whether err says that a file system or quota is used up.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// ioError gives a plain file error its kind.
func ioError(op, object string, err error) error {
	switch {
	case err == nil:
		return nil
	case isNoSpace(err):
		return (&fail.Error{Kind: fail.Full, Op: op, Object: object, Err: err}).
			WithHint("make room in the file system, or lower the log's budget")
	case errors.Is(err, fs.ErrPermission):
		return fail.Wrap(fail.Denied, op, object, err)
	case isNotExist(err):
		return fail.Wrap(fail.NotFound, op, object, err)
	}
	return fail.Wrap(fail.KindOf(err), op, object, err)
}
