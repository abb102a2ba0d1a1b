package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Agent are the settings of `pollux agent`.
type Agent struct {
	Name    string `yaml:"name"`    // default: the host's name
	Site    string `yaml:"site"`    // where this host is; default "local"
	State   string `yaml:"state"`   // default /var/lib/pollux
	Runtime string `yaml:"runtime"` // on tmpfs; default /dev/shm/pollux
	Socket  string `yaml:"socket"`  // control; default <state>/control.sock
	Memory  Bytes  `yaml:"memory"`  // acknowledged writes in flight; default 128MiB

	WAL     WAL     `yaml:"wal"`
	NBD     NBD     `yaml:"nbd"`
	Journal Journal `yaml:"journal"`
	Control Control `yaml:"control"`
	// Identity is towards the journal and operators, and of an embedded journal.
	Identity Identity `yaml:"tls"`
	Metrics  Metrics  `yaml:"metrics"`
	Log      Log      `yaml:"log"`
	// Quiesce are hooks round bookmarks, by group.
	Quiesce []Quiesce `yaml:"quiesce"`
}

// Quiesce says how a group's application is made to stand still for a bookmark.
type Quiesce struct {
	Group string   `yaml:"group"`
	Pre   []string `yaml:"pre"`   // a command and its arguments
	Post  []string `yaml:"post"`  // the same; it always runs
	Limit Duration `yaml:"limit"` // from the start of pre on; default 10s
}

// WAL bounds the agent's change log.
type WAL struct {
	Budget  Bytes    `yaml:"budget"`  // default 8GiB
	Segment Bytes    `yaml:"segment"` // default 32MiB
	Linger  Duration `yaml:"linger"`  // how long an open frame waits; default 2ms
}

// NBD says where volumes are served.
type NBD struct {
	Unix           string `yaml:"unix"` // default <state>/nbd.sock
	TCP            string `yaml:"tcp"`  // host:port; default none
	TLS            TLS    `yaml:"tls"`  // for TCP
	MaxConnections int    `yaml:"max_connections"`
	// StallLimit is for how long a client may make no progress in the middle of a
	// message; default 10m.
	StallLimit Duration `yaml:"stall_limit"`
}

// TLS names PEM files.
type TLS struct {
	Cert     string `yaml:"cert"`
	Key      string `yaml:"key"`
	ClientCA string `yaml:"client_ca"` // clients must show a certificate of it
}

// Journal configures the embedded journal, or says where one runs elsewhere.
type Journal struct {
	// Addresses are of a journal's members on other hosts: host:port. With them,
	// nothing else here is set.
	Addresses []string `yaml:"addresses"`
	Member    `yaml:",inline"`
	Identity  Identity `yaml:"tls"`        // towards the journal, and of the embedded one
	LogBudget Bytes    `yaml:"log_budget"` // default 2GiB
	// OptionalBacklog is how much is kept for an optional target alone before it is
	// let go; default half of log_budget, or of wal.budget where that is less.
	OptionalBacklog Bytes    `yaml:"optional_backlog"`
	Heartbeat       Duration `yaml:"heartbeat"` // default 1m
	Targets         []Target `yaml:"targets"`
}

// Target is one remote object store.
type Target struct {
	Name            string   `yaml:"name"`
	URL             string   `yaml:"url"` // file:///directory or s3://bucket/prefix
	Site            string   `yaml:"site"`
	Endpoint        string   `yaml:"endpoint"`
	Region          string   `yaml:"region"`
	CredentialsFile string   `yaml:"credentials_file"`
	CAFile          string   `yaml:"ca_file"`
	Optional        bool     `yaml:"optional"`
	Requests        Requests `yaml:"requests"`
	ObjectLock      Lock     `yaml:"object_lock"`
}

// Lock is for how long the store shall keep each object from deletion.
type Lock struct {
	Mode string   `yaml:"mode"` // compliance or governance
	For  Duration `yaml:"for"`  // a day at least; default none
}

// Requests is a token bucket over the objects created, because they cost money.
type Requests struct {
	Rate  *float64 `yaml:"rate"`  // per second; 0 is unlimited; default 10
	Burst int      `yaml:"burst"` // default 100
}

// Metrics says where /metrics is served.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; default none (the control socket has it too)
}

// Log says what is logged, to standard error.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error; default info
	Format string `yaml:"format"` // text, json; default text
}

// nameRule keeps an agent's name fit for the names of files.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

const minRate = 1.0 / 600

// LoadAgent reads, completes and checks a file.
func LoadAgent(path string) (*Agent, error) {
	b, err := read(path)
	if err != nil {
		return nil, err
	}
	return ParseAgent(path, b)
}

func read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		kind := fail.Denied
		if errors.Is(err, os.ErrNotExist) {
			kind = fail.NotFound
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
}

// parse decodes, completes and checks.
func parse(path string, b []byte, c settings) error {
	dec := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict(), yaml.DisallowUnknownField())
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fail.New(fail.Invalid, "read configuration", atValue(path, b, err), strings.TrimSpace(yaml.FormatError(err, false, true))).
			WithHint("docs/configuration.md lists the settings")
	}
	c.setDefaults()
	if setting, err := c.check(); err != nil {
		at := path
		if line := lineOf(b, setting); line > 0 {
			at = fmt.Sprintf("%s:%d", path, line)
		}
		return fail.New(fail.Invalid, "read configuration", at, setting+": "+err.Error())
	}
	return nil
}

func (c *Agent) setDefaults() {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	defBytes := func(p *Bytes, v Bytes) {
		if *p == 0 {
			*p = v
		}
	}
	host, _ := os.Hostname()
	def(&c.Name, host)
	def(&c.Site, "local")
	def(&c.State, "/var/lib/pollux")
	def(&c.Runtime, "/dev/shm/pollux")
	def(&c.Socket, filepath.Join(c.State, "control.sock"))
	def(&c.NBD.Unix, filepath.Join(c.State, "nbd.sock"))
	def(&c.Log.Level, "info")
	def(&c.Log.Format, "text")
	defBytes(&c.Memory, 128<<20)
	defBytes(&c.WAL.Budget, 8<<30)
	defBytes(&c.WAL.Segment, 32<<20)
	defBytes(&c.Journal.LogBudget, 2<<30)
	defBytes(&c.Journal.OptionalBacklog, min(c.Journal.LogBudget, c.WAL.Budget)/2)
	if c.WAL.Linger == 0 {
		c.WAL.Linger = Duration(2 * time.Millisecond)
	}
	if c.Journal.Heartbeat == 0 {
		c.Journal.Heartbeat = Duration(time.Minute)
	}
	if c.NBD.MaxConnections == 0 {
		c.NBD.MaxConnections = 64
	}
	if c.NBD.StallLimit == 0 {
		c.NBD.StallLimit = Duration(10 * time.Minute)
	}
	for i := range c.Quiesce {
		if c.Quiesce[i].Limit == 0 {
			c.Quiesce[i].Limit = Duration(10 * time.Second)
		}
	}
	c.Journal.setDefaults()
	setTargetDefaults(c.Journal.Targets)
}

func setTargetDefaults(targets []Target) {
	for i := range targets {
		t := &targets[i]
		if t.Name == "" {
			t.Name = fmt.Sprintf("target%d", i+1)
		}
		if t.Site == "" {
			t.Site = "remote"
		}
		if t.Requests.Rate == nil {
			r := 10.0
			t.Requests.Rate = &r
		}
		if t.Requests.Burst == 0 {
			t.Requests.Burst = 100
		}
	}
}

// check returns the first setting that cannot work.
func (c *Agent) check() (setting string, err error) {
	switch {
	case c.Name != "" && !nameRule.MatchString(c.Name):
		return "name", fmt.Errorf("%q: letters, digits and _.- only, 100 at most, a letter or digit first", c.Name)
	case !filepath.IsAbs(c.State):
		return "state", fmt.Errorf("%q is not an absolute path", c.State)
	case c.Name == "":
		return "name", errors.New("is empty and the host has no name")
	case c.Memory < 4<<20:
		return "memory", fmt.Errorf("%v is less than the minimum of 4MiB", c.Memory)
	case c.WAL.Segment < 4<<20 || c.WAL.Segment > 1<<30 || c.WAL.Segment%4096 != 0:
		return "segment", fmt.Errorf("%v: 4MiB to 1GiB, a multiple of 4KiB", c.WAL.Segment)
	case c.WAL.Budget < 2*c.WAL.Segment:
		return "budget", fmt.Errorf("%v is less than two segments of %v", c.WAL.Budget, c.WAL.Segment)
	case c.Journal.LogBudget < 64<<20:
		return "log_budget", fmt.Errorf("%v is less than the minimum of 64MiB", c.Journal.LogBudget)
	case checkBacklog(c.Journal.OptionalBacklog, min(c.Journal.LogBudget, c.WAL.Budget)) != nil:
		return "optional_backlog", checkBacklog(c.Journal.OptionalBacklog, min(c.Journal.LogBudget, c.WAL.Budget))
	case c.NBD.MaxConnections < 1 || c.NBD.MaxConnections > 4096:
		return "max_connections", fmt.Errorf("%d: 1 to 4096", c.NBD.MaxConnections)
	case time.Duration(c.NBD.StallLimit) < time.Second:
		return "stall_limit", fmt.Errorf("%v is less than the minimum of 1s", c.NBD.StallLimit)
	case (c.NBD.TLS.Cert == "") != (c.NBD.TLS.Key == ""):
		return "tls", errors.New("cert and key belong together")
	case !oneOf(c.Log.Level, "debug", "info", "warn", "error"):
		return "level", fmt.Errorf("%q: debug, info, warn or error", c.Log.Level)
	case !oneOf(c.Log.Format, "text", "json"):
		return "format", fmt.Errorf("%q: text or json", c.Log.Format)
	}
	groups := map[string]bool{}
	for _, q := range c.Quiesce {
		switch {
		case q.Group == "" || groups[q.Group]:
			return "quiesce", fmt.Errorf("group %q: each hook names one group, and each group has one", q.Group)
		case len(q.Pre) == 0 || len(q.Post) == 0:
			return "quiesce", fmt.Errorf("group %s: pre and post are both needed, each a list of a command and its arguments", q.Group)
		case !filepath.IsAbs(q.Pre[0]) || !filepath.IsAbs(q.Post[0]):
			return "quiesce", fmt.Errorf("group %s: %s and %s: name commands by absolute paths", q.Group, q.Pre[0], q.Post[0])
		case q.Limit < Duration(100*time.Millisecond) || q.Limit > Duration(10*time.Minute):
			return "quiesce", fmt.Errorf("group %s: a limit of %v: 100ms to 10m", q.Group, q.Limit)
		}
		groups[q.Group] = true
	}
	for _, a := range []struct{ setting, addr string }{{"tcp", c.NBD.TCP}, {"listen", c.Metrics.Listen}} {
		if a.addr == "" {
			continue
		}
		if err := checkListen(a.addr, a.setting == "tcp" && c.NBD.TLS.Cert != ""); err != nil {
			return a.setting, err
		}
	}
	if err := c.Identity.check(); err != nil {
		return "tls", err
	}
	if err := c.Control.check(c.Identity); err != nil {
		return "control", err
	}
	if setting, err := c.Journal.Member.check(c.Identity); err != nil {
		return setting, err
	}
	if len(c.Journal.Addresses) > 0 {
		if c.Journal.Listen != "" {
			return "listen", errors.New("belongs to an embedded journal, and journal.addresses names another")
		}
		if len(c.Journal.Targets) > 0 {
			return "targets", errors.New("belong to the journal's own configuration where journal.addresses is set")
		}
		return "addresses", checkAddresses(c.Journal.Addresses, c.Identity)
	}
	return checkTargets(c.Journal.Targets)
}

func (l *Lock) check(t *Target) (string, error) {
	const day = Duration(24 * time.Hour)
	switch {
	case *l == Lock{}:
		return "", nil
	case l.Mode == "" || l.For == 0:
		return "object_lock", errors.New("mode and for belong together, as in {mode: compliance, for: 30d}")
	case !oneOf(l.Mode, "compliance", "governance"):
		return "object_lock", fmt.Errorf("mode %q: compliance (nobody can shorten it) or governance", l.Mode)
	case l.For < day:
		return "object_lock", fmt.Errorf("for %v: a day (1d) at least, since gc extends what is needed once half of it is over", l.For)
	case !strings.HasPrefix(t.URL, "s3://"):
		return "object_lock", fmt.Errorf("%s has no Object Lock: only s3:// stores do", t.URL)
	}
	return "", nil
}

// checkBacklog leaves room beside what is kept for optional targets.
func checkBacklog(n, budget Bytes) error {
	if n < 1<<20 || n > budget/4*3 {
		return fmt.Errorf("%v: 1MiB to three quarters of %v, the least of the budgets of log and WAL", n, budget)
	}
	return nil
}

func checkTargets(targets []Target) (string, error) {
	if len(targets) == 0 {
		return "targets", errors.New("name at least one object store")
	}
	seen := map[string]bool{}
	required := false
	for _, t := range targets {
		switch {
		case strings.ContainsAny(t.Name, "/ ") || len(t.Name) > 64:
			return "name", fmt.Errorf("target %q: no slash, no space, 64 bytes at most", t.Name)
		case seen[t.Name]:
			return "targets", fmt.Errorf("two are called %q", t.Name)
		case !strings.HasPrefix(t.URL, "file:///") && !strings.HasPrefix(t.URL, "s3://"):
			return "url", fmt.Errorf("%q: file:///directory or s3://bucket/prefix", t.URL)
		case !(*t.Requests.Rate >= 0) || math.IsInf(*t.Requests.Rate, 0): // NaN too
			return "rate", fmt.Errorf("%v is not a rate", *t.Requests.Rate)
		case *t.Requests.Rate > 0 && *t.Requests.Rate < minRate:
			return "rate", fmt.Errorf("%v requests per second is less than one in ten minutes; 0 is unlimited", *t.Requests.Rate)
		case t.Requests.Burst < 1:
			return "burst", fmt.Errorf("%d is less than 1", t.Requests.Burst)
		}
		if setting, err := t.ObjectLock.check(&t); err != nil {
			return setting, err
		}
		seen[t.Name] = true
		required = required || !t.Optional
	}
	if !required {
		return "targets", errors.New("at least one must not be optional")
	}
	return "", nil
}

func oneOf(s string, all ...string) bool {
	for _, a := range all {
		if s == a {
			return true
		}
	}
	return false
}

// checkListen refuses to serve in clear beyond loopback.
func checkListen(addr string, tls bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	ip := net.ParseIP(host)
	if !tls && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address, and nothing listens in clear elsewhere: use TLS or 127.0.0.1", addr)
	}
	return nil
}

// lineOf finds the first line that gives the setting a value, in block or flow
// style.
func lineOf(b []byte, setting string) int {
	return findLine(b, regexp.MustCompile(`^([^#]*[\s{,-])?`+regexp.QuoteMeta(setting)+`\s*:`))
}

func findLine(b []byte, re *regexp.Regexp) int {
	for i, line := range strings.Split(string(b), "\n") {
		if re.MatchString(line) {
			return i + 1
		}
	}
	return 0
}

var (
	hasLine = regexp.MustCompile(`^\[\d+:\d+\]`)
	quoted  = regexp.MustCompile(`"([^"]+)"`)
)

// atValue names the line of a value that one of our own types refused: the
// decoder does not.
func atValue(path string, b []byte, err error) string {
	text := err.Error()
	m := quoted.FindStringSubmatch(text)
	if hasLine.MatchString(text) || m == nil {
		return path
	}
	if line := findLine(b, regexp.MustCompile(`^[^#]*`+regexp.QuoteMeta(m[1]))); line > 0 {
		return fmt.Sprintf("%s:%d", path, line)
	}
	return path
}
