package state

import (
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestLoadChecks: a store's state is held to the rules for what is typed.
func TestLoadChecks(t *testing.T) {
	id := testStream.String()
	for _, x := range []struct{ what, key, json string }{
		{"a volume's name leads out of a directory", "volume/../../x", `{"name":"../../x","group":"g","size_bytes":1}`},
		{"a volume's name has an escape", "volume/v\x1b[2J", `{"name":"v\u001b[2J","group":"g","size_bytes":1}`},
		{"a volume's name has a second line", "volume/v\nx", `{"name":"v\nx","group":"g","size_bytes":1}`},
		{"a volume under another's key", "volume/v", `{"name":"w","group":"g","size_bytes":1}`},
		{"a volume in a group without a name", "volume/v", `{"name":"v","group":"","size_bytes":1}`},
		{"a volume of no size", "volume/v", `{"name":"v","group":"g","size_bytes":0}`},
		{"a volume of less than no size", "volume/v", `{"name":"v","group":"g","size_bytes":-9}`},
		{"no volume", "volume/v", `null`},
		{"a group's name begins with a digit", "group/1", `{"name":"1"}`},
		{"a group under another's key", "group/g", `{"name":"h"}`},
		{"a group with a retention that nobody could set", "group/g",
			`{"name":"g","retention":{"every_write_seconds":-5}}`},
		{"no group", "group/g", `null`},
		{"a bookmark's name is a time", "bookmark/g/-10m", `{"name":"-10m","group":"g"}`},
		{"a bookmark's group is none", "bookmark/a b/x", `{"name":"x","group":"a b"}`},
		{"a bookmark under another's key", "bookmark/g/b", `{"name":"c","group":"g"}`},
		{"a stream under another's key", "stream/" + id, `{"id":"21111111-2222-3333-4444-555555555555","group":"g"}`},
		{"a stream in a group with an escape", "stream/" + id, `{"id":"` + id + `","group":"\u001b"}`},
		{"a mark with a part that is none", "mark/g", `{"name":"m","group":"g","parts":{"` + id + `":null}}`},
		{"a mark's name is none", "mark/g", `{"name":"\n","group":"g"}`},
		{"an audit entry in another's place", "audit/7", `{"number":8}`},
		{"an unknown key", "x\x1b/y", `{}`},
	} {
		s := New()
		err := s.Load(x.key, []byte(x.json))
		if !fail.Is(err, fail.Damaged) {
			t.Errorf("%s: %v", x.what, err)
			continue
		}
		if strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%s: the error is not fit for a terminal: %q", x.what, err)
		}
		if n := len(s.Keys()); n != 0 {
			t.Errorf("%s: %d keys are there all the same", x.what, n)
		}
	}
}
