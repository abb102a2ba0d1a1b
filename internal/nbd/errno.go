package nbd

import (
	"context"
	"errors"
	"os"

	"github.com/pollux-dr/pollux/internal/fail"
)

// errnoOf maps a device's error to the protocol's error value. ESHUTDOWN says
// that the device is gone for this connection and a new one may help; EIO is
// all that the rest of the kinds can become.
func errnoOf(err error) uint32 {
	switch {
	case err == nil:
		return nbdOK
	case errors.Is(err, context.Canceled), errors.Is(err, os.ErrClosed):
		return nbdESHUTDOWN
	}
	switch fail.KindOf(err) {
	case fail.Full:
		return nbdENOSPC
	case fail.Invalid:
		return nbdEINVAL
	case fail.Refused, fail.Denied:
		return nbdEPERM
	case fail.NotFound, fail.Fenced:
		return nbdESHUTDOWN
	case fail.Unsupported:
		return nbdENOTSUP
	default:
		return nbdEIO
	}
}
