package objlog

import "testing"

// TestObjectID: an object's id and its name say the same, and the number that stands on disk
// is the one of earlier builds.
func TestObjectID(t *testing.T) {
	for _, tt := range []struct {
		id   ObjectID
		disk uint64
		name string
		pack bool
	}{
		{InLog(0), 0, "log/00000000000000000000", false},
		{InLog(7), 7, "log/00000000000000000007", false},
		{InLog(MaxNumber), 1<<63 - 1, "log/09223372036854775807", false},
		{InPack(0), 1 << 63, "pack/00000000000000000000", true},
		{InPack(5<<31 + 7), 1<<63 | 5<<31 + 7, "pack/00000000010737418247", true},
	} {
		position, inLog := tt.id.Position()
		number, packed := tt.id.Pack()
		if uint64(tt.id) != tt.disk || tt.id.Name() != tt.name || packed != tt.pack || inLog == tt.pack {
			t.Errorf("%d, %s: a pack %v, in the log %v; want %+v", tt.id, tt.id.Name(), packed, inLog, tt)
		}
		if packed && InPack(number) != tt.id || inLog && InLog(position) != tt.id {
			t.Errorf("%s is number %d, at position %d", tt.name, number, position)
		}
	}
}
