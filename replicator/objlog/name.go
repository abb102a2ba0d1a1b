package objlog

import (
	"fmt"
	"strconv"
	"strings"
)

// Prefix is what the names of all positions begin with.
const Prefix = "log/"

// ObjectName is the name of a position of the log.
func ObjectName(position uint64) string { return fmt.Sprintf(Prefix+"%020d", position) }

// PositionOf is the position that a name is of; names that ObjectName does not give are of
// none.
func PositionOf(name string) (position uint64, ok bool) {
	position, err := strconv.ParseUint(strings.TrimPrefix(name, Prefix), 10, 64)
	return position, err == nil && ObjectName(position) == name
}
