package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"

	"github.com/pollux-dr/pollux/internal/fail"
)

// LoadAgent reads, completes and checks a file.
func LoadAgent(path string) (*Agent, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	c := &Agent{}
	return c, load(path, b, c)
}

func read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		kind := fail.Denied
		if errors.Is(err, os.ErrNotExist) {
			kind = fail.NotFound
		}
		if errors.Is(err, syscall.EISDIR) {
			kind = fail.Invalid
		}
		e := &fail.Error{Kind: kind, Op: "read configuration", Object: path, Err: err}
		return nil, e.WithHint("name the file with -c; docs/configuration.md lists the settings")
	}
	return b, nil
}

// ParseAgent is LoadAgent on bytes; path is for error texts.
func ParseAgent(path string, b []byte) (*Agent, error) {
	c := &Agent{}
	return c, parse(path, b, c)
}

// settings are one kind of file.
type settings interface {
	setDefaults()
	check() (setting string, err error)
	files() []named
}

// parse decodes, completes and checks.
func parse(path string, b []byte, c settings) error {
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict(), yaml.DisallowUnknownField())
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		at, setting := atValue(path, b, err)
		says := strings.TrimSpace(yaml.FormatError(err, false, true))
		if m := hasLine.FindStringSubmatch(says); m != nil { // in the form of all other errors
			at, says = path+":"+m[1], strings.TrimPrefix(says, m[0])
		}
		return fail.New(fail.Invalid, "read configuration", at, setting+says).
			WithHint("docs/configuration.md lists the settings")
	}
	c.setDefaults()
	if setting, err := c.check(); err != nil {
		return wrong(fail.Invalid, path, b, setting, err).WithHint("docs/configuration.md lists the settings")
	}
	return nil
}

// load is parse, and looks whether the files that the settings name are there.
func load(path string, b []byte, c settings) error {
	if err := parse(path, b, c); err != nil {
		return err
	}
	setting, err := checkFiles(c.files())
	switch {
	case errors.Is(err, os.ErrNotExist):
		return wrong(fail.NotFound, path, b, setting, err).WithHint("correct the path, or make the file")
	case err != nil:
		return wrong(fail.Denied, path, b, setting, err).WithHint("let the user that runs pollux read it")
	}
	return nil
}

// wrong is the error of a setting, with its line.
func wrong(kind fail.Kind, path string, b []byte, setting string, err error) *fail.Error {
	if line := lineOf(b, setting); line > 0 {
		path = fmt.Sprintf("%s:%d", path, line)
	}
	return &fail.Error{Kind: kind, Op: "read configuration", Object: path, Err: fmt.Errorf("%s: %w", setting, err)}
}

// lineOf finds the line that gives a setting, as in journal.targets[0].url, its value;
// where there is none, that of what it belongs to.
func lineOf(b []byte, setting string) int {
	for {
		if p, err := yaml.PathString("$." + setting); err == nil {
			if n, err := p.ReadNode(bytes.NewReader(b)); err == nil && n.GetToken() != nil {
				return n.GetToken().Position.Line
			}
		}
		i := strings.LastIndexAny(setting, ".[")
		if i < 0 {
			return 0
		}
		setting = setting[:i]
	}
}

var (
	hasLine = regexp.MustCompile(`^\[(\d+):\d+\] *`)
	quoted  = regexp.MustCompile(`"([^"]+)"`)
)

// atValue names the line of a value that one of our own types refused, and the setting
// with a colon: the decoder does not.
func atValue(path string, b []byte, err error) (at, setting string) {
	text := err.Error()
	m := quoted.FindStringSubmatch(text)
	if hasLine.MatchString(text) || m == nil {
		return path, ""
	}
	value := regexp.MustCompile(`^(?:[^#]*[\s{,-])?(\w+)\s*:\s*["']?` + regexp.QuoteMeta(m[1]) + `["']?\s*(?:[,}#]|$)`)
	for i, line := range strings.Split(string(b), "\n") {
		if m := value.FindStringSubmatch(line); m != nil {
			return fmt.Sprintf("%s:%d", path, i+1), m[1] + ": "
		}
	}
	return path, ""
}
