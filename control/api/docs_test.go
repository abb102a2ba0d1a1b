package api

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requests are what the verbs take.
var requests = map[string]any{
	VerbStatus: struct{}{}, VerbGroupPut: GroupPut{}, VerbGroupList: List{}, VerbGroupWait: GroupWait{},
	VerbVolumeCreate: VolumeCreate{}, VerbVolumeList: List{}, VerbVolumeRemove: VolumeRemove{},
	VerbVolumeAccept: VolumeAccept{}, VerbVolumeChanged: VolumeChanged{},
	VerbBookmarkAdd: BookmarkAdd{}, VerbBookmarkList: List{}, VerbBookmarkRemove: BookmarkRemove{},
	VerbHandOver: HandOver{}, VerbCommit: Commit{}, VerbRollBack: RollBack{}, VerbFailover: Failover{},
	VerbAuditList: AuditQuery{}, VerbJournalList: struct{}{}, VerbJournalInit: JournalInit{},
	VerbJournalJoin: JournalJoin{}, VerbJournalRemove: JournalRemove{}, VerbJournalTransfer: JournalTransfer{},
}

// TestDocumentedVerbs holds the table of docs/control.md against this package: a row for
// each verb, with the fields of its request, and none for anything else.
func TestDocumentedVerbs(t *testing.T) {
	page, err := os.ReadFile("../../docs/control.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|([^|]*)\\|").FindAllStringSubmatch(string(page), -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("docs/control.md has two rows for %s", m[1])
		}
		rows[m[1]] = m[2]
	}
	for verb, constant := range verbConstants(t) {
		row, ok := rows[verb]
		if !ok {
			t.Errorf("docs/control.md has no row for %s (%s)", verb, constant)
			continue
		}
		delete(rows, verb)
		request, ok := requests[verb]
		if !ok {
			t.Errorf("this test does not know what %s takes", constant)
			continue
		}
		said, want := fieldsSaid(row), fieldsOf(request)
		if !slices.Equal(said, want) {
			t.Errorf("docs/control.md says that %s takes %v; it takes %v", verb, said, want)
		}
	}
	for _, verb := range slices.Sorted(maps.Keys(rows)) {
		t.Errorf("docs/control.md has a row for %s, which is no verb", verb)
	}
}

// fieldsSaid are the words in backticks of a table's cell, sorted.
func fieldsSaid(cell string) (out []string) {
	for _, code := range regexp.MustCompile("`[^`]*`").FindAllString(cell, -1) {
		out = append(out, regexp.MustCompile(`[a-z_]+`).FindAllString(code, -1)...)
	}
	slices.Sort(out)
	return out
}

// fieldsOf are the names of a request's fields in JSON, sorted.
func fieldsOf(request any) (out []string) {
	for field := range reflect.TypeOf(request).Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// verbConstants is what the package's source declares: a verb, and its constant's name.
func verbConstants(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	declaration := regexp.MustCompile(`(?m)^\s+(?:const )?(Verb[A-Z]\w*)\s+= "([^"]+)"`)
	out := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declaration.FindAllSubmatch(source, -1) {
			out[string(m[2])] = string(m[1])
		}
	}
	if out[VerbStatus] == "" {
		t.Fatal("the source's constants were not found")
	}
	return out
}
