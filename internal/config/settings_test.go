package config

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// settingsOf are the names of all settings of a type, as docs/configuration.md writes them.
func settingsOf(t reflect.Type, prefix string) (out []string) {
	for f := range t.Fields() {
		name, inline, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if inline == "inline" {
			out = append(out, settingsOf(f.Type, prefix)...)
			continue
		}
		at := prefix + name
		switch typ := f.Type; {
		case typ.Kind() == reflect.Struct:
			out = append(out, settingsOf(typ, at+".")...)
		case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct:
			out = append(out, settingsOf(typ.Elem(), at+"[].")...)
		default:
			out = append(out, at)
		}
	}
	return out
}

var inCode = regexp.MustCompile("`([^`]+)`")

// documented are the settings that a section of docs/configuration.md has a row for. Behind
// a name, `.x` is another of the same place; in rows behind one of a list, `….x` is of it.
func documented(section string) map[string]bool {
	out := map[string]bool{}
	list := ""
	_, section, _ = strings.Cut(section, "| setting |")
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		last := ""
		for _, m := range inCode.FindAllStringSubmatch(cells[1], -1) {
			name := m[1]
			switch rest, of := strings.CutPrefix(name, "…."); {
			case of:
				name = list + rest
			case name[0] == '.':
				name = last[:strings.LastIndex(last, ".")] + name
			case strings.HasSuffix(name, "[]"):
				list = name + "."
			}
			out[name], last = true, name
		}
	}
	return out
}

// TestSettingsDocumented: each setting that is taken is described, and the other way round.
func TestSettingsDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	agent, journal, _ := strings.Cut(string(b), "\n## journal.yaml")
	for _, c := range []struct {
		section string
		typ     reflect.Type
		as      []string // in agent.yaml, the row says
	}{{agent, reflect.TypeFor[Agent](), nil},
		{journal, reflect.TypeFor[JournalHost](), []string{"targets[]", "metrics.tls"}}} {
		docs := documented(c.section)
		for _, s := range settingsOf(c.typ, "") {
			if !docs[s] && !slices.ContainsFunc(c.as, func(as string) bool {
				return strings.HasPrefix(s, as+".") && docs[as]
			}) {
				t.Errorf("%s has no row for %s", c.typ.Name(), s)
			}
			delete(docs, s)
		}
		for s := range docs {
			if !strings.HasSuffix(s, "[]") && !slices.Contains(c.as, s) {
				t.Errorf("the row for %s in %s is of no setting", s, c.typ.Name())
			}
		}
	}
}

// TestFilesOfSettings: each setting that names a file is looked at before the start, warned
// of where others can read a secret, and its certificate's end is watched.
func TestFilesOfSettings(t *testing.T) {
	a := &Agent{Journal: Journal{Targets: []Target{{}}}}
	j := &JournalHost{Targets: []Target{{}}}
	for _, c := range []interface {
		settings
		Secrets() []string
		Certificates() []string
	}{a, j} {
		want := map[bool][]string{}
		fillFiles(reflect.ValueOf(c).Elem(), "", want)
		var got []string
		for _, f := range c.files() {
			got = append(got, f.value)
		}
		all := append(slices.Clone(want[true]), want[false]...)
		for what, pair := range map[string][2][]string{"files": {all, got}, "secrets": {want[true], c.Secrets()},
			"certificates": {want[false], c.Certificates()}} {
			if !slices.Equal(slices.Sorted(slices.Values(pair[0])), slices.Sorted(slices.Values(pair[1]))) {
				t.Errorf("%T: %s are %v, want %v", c, what, pair[1], pair[0])
			}
		}
	}
}

// fillFiles gives each setting that names a file its own name, and adds it to the secrets or
// the others.
func fillFiles(v reflect.Value, prefix string, secret map[bool][]string) {
	for f, field := range v.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch at := prefix + name; {
		case field.Kind() == reflect.Struct:
			fillFiles(field, at+".", secret)
		case field.Kind() == reflect.Slice && field.Len() > 0 && field.Index(0).Kind() == reflect.Struct:
			fillFiles(field.Index(0), at+"[0].", secret)
		case slices.Contains([]string{"cert", "key", "ca", "client_ca", "ca_file", "credentials_file"}, name):
			field.SetString(at)
			is := name == "key" || name == "credentials_file"
			secret[is] = append(secret[is], at)
		}
	}
}

// TestOfAnotherJournal: beside journal.addresses nothing is taken that would never be read.
func TestOfAnotherJournal(t *testing.T) {
	for setting, value := range map[string]string{"listen": "127.0.0.1:1", "advertise": "127.0.0.1:1",
		"peers":   "[127.0.0.1:1]",
		"targets": "[{url: \"file:///x\"}]", "log_budget": "1GiB", "optional_backlog": "1GiB", "heartbeat": "5m",
		"catalog": "{every_objects: 100}"} {
		_, err := ParseAgent("agent.yaml",
			fmt.Appendf(nil, "name: a\njournal:\n  addresses: [127.0.0.1:7601]\n  %s: %s\n", setting, value))
		if !fail.Is(err, fail.Invalid) || !strings.Contains(err.Error(), "agent.yaml:4: journal."+setting+": ") {
			t.Errorf("%s: %v", setting, err)
		}
	}
	if _, err := ParseAgent("agent.yaml", []byte("name: a\njournal:\n  addresses: [127.0.0.1:7601]\n")); err != nil {
		t.Error(err)
	}
}
