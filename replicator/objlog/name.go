package objlog

import (
	"fmt"
	"strconv"
	"strings"
)

// ObjectID names an object that holds blocks of volumes: one of the log, by its position
// (InLog), or a pack, by its number (InPack). Objects of the log come before packs. Maps,
// packs and catalogs have it as the number that it is: of a pack, the highest bit is set.
type ObjectID uint64

// MaxNumber is the highest position of the log, and the highest number of a pack.
const MaxNumber = uint64(packBit - 1)

const packBit = ObjectID(1) << 63

// InLog is the object at a position of the log.
func InLog(position uint64) ObjectID { return ObjectID(position) }

// InPack is the pack of a number.
func InPack(number uint64) ObjectID { return packBit | ObjectID(number) }

// Pack returns the number of the pack that it is; ok is false for an object of the log.
func (o ObjectID) Pack() (number uint64, ok bool) { return uint64(o &^ packBit), o&packBit != 0 }

// Position returns the position of the log that it is; ok is false for a pack.
func (o ObjectID) Position() (position uint64, ok bool) { return uint64(o), o&packBit == 0 }

// Name is the object's name in the bucket.
func (o ObjectID) Name() string {
	if number, ok := o.Pack(); ok {
		return fmt.Sprintf("pack/%020d", number)
	}
	return ObjectName(uint64(o))
}

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
