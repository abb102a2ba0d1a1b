package fail

import (
	"errors"
	"strings"
)

// Kind says what the caller should do about an error.
type Kind uint8

const (
	// Internal is a bug or something nobody foresaw: report it.
	Internal Kind = iota
	// Invalid is wrong input, a flag, a setting or a request: correct it.
	Invalid
	// NotFound names a thing that does not exist: check the name.
	NotFound
	// Exists says that the name is already taken: choose another or go on with it.
	Exists
	// Refused is a request that the present state forbids: change the state, or
	// override where a flag allows it.
	Refused
	// Retry is a passing fault (network, store, leader): try again later.
	Retry
	// Full is a budget or a disk that is used up: make room.
	Full
	// Denied is missing permission or credentials: fix them.
	Denied
	// Damaged is data that fails its checksum or breaks its chain: use another copy.
	Damaged
	// Fenced says that another writer has taken over: stop, never retry.
	Fenced
	// Unsupported is a version or feature that this build does not know: upgrade.
	Unsupported
)

var kinds = [...]struct {
	name string
	exit int
}{
	Internal:    {"internal", 1},
	Invalid:     {"invalid", 2},
	NotFound:    {"not-found", 3},
	Exists:      {"exists", 4},
	Refused:     {"refused", 5},
	Retry:       {"retry", 6},
	Full:        {"full", 7},
	Denied:      {"denied", 8},
	Damaged:     {"damaged", 9},
	Fenced:      {"fenced", 10},
	Unsupported: {"unsupported", 11},
}

// String returns the kind's stable name, as it appears in JSON and metrics.
func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k].name
	}
	return "internal"
}

// ParseKind is the inverse of String; an unknown name is Internal.
func ParseKind(name string) Kind {
	for k := range kinds {
		if kinds[k].name == name {
			return Kind(k)
		}
	}
	return Internal
}

// ExitCode maps an error to the process's exit status; nil is 0.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return kinds[KindOf(err)].exit
}

// OfExit is the kind of the error that made another pollux exit with code.
func OfExit(code int) Kind {
	for k := range kinds {
		if kinds[k].exit == code {
			return Kind(k)
		}
	}
	return Internal
}

// Error is an error of one Kind, with what was being done, to what, and what
// the operator can do about it. Op, Object and Hint may be empty.
type Error struct {
	Kind   Kind
	Op     string // what was being done: "open wal"
	Object string // to what: a file, a URL, a volume
	Err    error  // the cause
	Hint   string // what to do: "free space in /var/lib/pollux"
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
	}
	if e.Object != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Object)
	}
	if e.Err != nil {
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// New wraps a message as an error of kind.
func New(kind Kind, op, object, msg string) *Error {
	return &Error{Kind: kind, Op: op, Object: object, Err: errors.New(msg)}
}

// Wrap adds operation and object to err and sets its kind; a nil err stays nil.
func Wrap(kind Kind, op, object string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Op: op, Object: object, Err: err}
}

// At adds operation and object to err and keeps its kind; a nil err stays nil.
func At(op, object string, err error) error {
	return Wrap(KindOf(err), op, object, err)
}

// WithHint returns e with a hint for the operator.
func (e *Error) WithHint(hint string) *Error {
	e.Hint = hint
	return e
}

// KindOf returns the kind of the outermost *Error in err's tree, or Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Explain is an error's text and what to do about it, for a status.
func Explain(err error) string {
	if hint := HintOf(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}
