package cli

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/replicator/state"
)

// VerbOf is a command's path without the program's name, for error texts.
func VerbOf(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

// FlagError says which flag is wrong, and what it takes.
func FlagError(c *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	var missing *pflag.ValueRequiredError
	var unknown *pflag.NotExistError
	why, object, likely := err.Error(), "", ""
	switch {
	case errors.As(err, &value):
		object, why = "--"+value.GetFlag().Name, value.Unwrap().Error()
		var number *strconv.NumError
		if errors.As(err, &number) {
			why = fmt.Sprintf("%q is not a value of type %s", value.GetValue(), value.GetFlag().Value.Type())
		}
	case errors.As(err, &missing):
		object, why = "--"+missing.GetFlag().Name, "it needs a value"
	case errors.As(err, &unknown):
		likely = likeFlag(c, unknown.GetSpecifiedName())
	}
	return fail.New(fail.Invalid, VerbOf(c), object, why).WithHint(didYouMean(likely, "see "+c.CommandPath()+" --help"))
}

// CheckDirectory refuses a directory that is none; "" is the default.
func CheckDirectory(op, flag, path string) error {
	if path == "" {
		return nil
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() {
		return fail.New(fail.NotFound, op, flag+" "+path, "no such directory").
			WithHint("make it, or name another with " + flag)
	}
	return nil
}

// checkReadable refuses a file that cannot be read; "" is none.
func checkReadable(flag, path string) error {
	if path == "" {
		return nil
	}
	r, err := os.Open(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fail.New(fail.NotFound, "read", flag+" "+path, "no such file").WithHint("correct the path")
	case err != nil:
		return (&fail.Error{Kind: fail.Denied, Op: "read", Object: flag + " " + path, Err: err}).
			WithHint("run as a user who may read it")
	}
	return r.Close()
}

// PointFlag is --at: an LSN, a time or a bookmark. What is no point at all is refused
// with the command line; a time goes on in the form that package twin reads.
type PointFlag struct {
	At   *string
	note string // how the value was taken, where it could be taken otherwise
}

// Set implements pflag.Value.
func (p *PointFlag) Set(s string) error {
	switch {
	case s == "":
		return errors.New(
			`"" is not a point: write an LSN, a time or a bookmark's name, or leave it out for the newest point`)
	case strings.Trim(s, "0123456789") == "":
	case s[0] == '-' || (s[0] >= '0' && s[0] <= '9'):
		t, assumed, err := quantity.ParseTime(s, clock.Now(), time.Local)
		if err != nil {
			return err
		}
		if assumed {
			zone, _ := t.Zone()
			p.note = fmt.Sprintf("--at %q has no zone, and is taken in this host's, %s: %s", s, zone,
				t.Format(time.RFC3339Nano))
		}
		if s[0] == '-' {
			if d, err := quantity.ParseDuration(s[1:]); err == nil {
				s = "-" + time.Duration(d).String()
			}
		} else {
			s = t.Format(time.RFC3339Nano)
		}
	default:
		if err := state.CheckName("bookmark", s); err != nil {
			return fmt.Errorf("%q is neither an LSN, nor a time, nor a bookmark's name: %s", s, fail.HintOf(err))
		}
	}
	*p.At = s
	return nil
}

func (p *PointFlag) String() string {
	if p.At == nil {
		return ""
	}
	return *p.At
}

// Type names the flag's kind in help texts.
func (p *PointFlag) Type() string { return "point" }

// SecondsFlag is a duration that is seconds where it has no unit, as --rpo-target was
// first documented.
type SecondsFlag float64

// Set implements pflag.Value.
func (f *SecondsFlag) Set(s string) error {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n <= quantity.MaxDuration.Seconds() {
		*f = SecondsFlag(n)
		return nil
	}
	d, err := quantity.ParseDuration(s)
	*f = SecondsFlag(time.Duration(d).Seconds())
	return err
}

func (f *SecondsFlag) String() string {
	return quantity.Duration(float64(*f) * float64(time.Second)).String()
}

// Type names the flag's kind in help texts.
func (f *SecondsFlag) Type() string { return "duration" }
