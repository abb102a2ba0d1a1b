package objstore

import "github.com/pollux-dr/pollux/internal/fail"

// Reread calls read, which reads an object and checks what it got, and once more where
// that was damaged: objects never change, so that what the way damaged comes right, and
// what the store damaged does not.
func Reread(read func() error) error {
	err := read()
	if fail.Is(err, fail.Damaged) {
		err = read()
	}
	return err
}
