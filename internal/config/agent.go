package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/pollux-dr/pollux/internal/quantity"
)

// Agent are the settings of `pollux agent`.
type Agent struct {
	Name    string         `yaml:"name"`    // default: the host's name
	Site    string         `yaml:"site"`    // where this host is; default "local"
	State   string         `yaml:"state"`   // default /var/lib/pollux
	Runtime string         `yaml:"runtime"` // on tmpfs; default /dev/shm/pollux
	Socket  string         `yaml:"socket"`  // control; default <state>/control.sock
	Memory  quantity.Bytes `yaml:"memory"`  // acknowledged writes in flight; default 128MiB
	// HydrateRate bounds what a backing that is filled from the store reads each second; default
	// none.
	HydrateRate quantity.Bytes `yaml:"hydrate_rate"`

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
	// Standby is what the host follows until its journal is promoted here.
	Standby Standby `yaml:"standby"`
}

// Quiesce says how a group's application is made to stand still for a bookmark.
type Quiesce struct {
	Group string            `yaml:"group"`
	Pre   []string          `yaml:"pre"`   // a command and its arguments
	Post  []string          `yaml:"post"`  // the same; it always runs
	Limit quantity.Duration `yaml:"limit"` // from the start of pre on; default 10s
}

// WAL bounds the agent's change log.
type WAL struct {
	Budget  quantity.Bytes    `yaml:"budget"`  // default 8GiB
	Segment quantity.Bytes    `yaml:"segment"` // default 32MiB
	Linger  quantity.Duration `yaml:"linger"`  // how long an open frame waits; default 2ms
}

// NBD says where volumes are served.
type NBD struct {
	Unix           string `yaml:"unix"` // default <state>/nbd.sock
	TCP            string `yaml:"tcp"`  // host:port; default none
	TLS            TLS    `yaml:"tls"`  // for TCP
	MaxConnections int    `yaml:"max_connections"`
	// StallLimit is for how long a client may make no progress in the middle of a
	// message; default 10m.
	StallLimit quantity.Duration `yaml:"stall_limit"`
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
	LogBudget quantity.Bytes `yaml:"log_budget"` // default 2GiB
	// OptionalBacklog is how much is kept for an optional target alone before it is
	// let go; default half of log_budget, or of wal.budget where that is less.
	OptionalBacklog quantity.Bytes    `yaml:"optional_backlog"`
	Heartbeat       quantity.Duration `yaml:"heartbeat"` // default 1m
	Catalog         Catalog           `yaml:"catalog"`
	Targets         []Target          `yaml:"targets"`
}

// Catalog says when the journal's leader makes a catalog of a target's log.
type Catalog struct {
	// EveryObjects is by how many objects a log has to grow; 0 is never; default 500.
	EveryObjects *int `yaml:"every_objects"`
}

const defaultCatalogObjects = 500

func (c *Catalog) setDefaults() {
	if c.EveryObjects == nil {
		n := defaultCatalogObjects
		c.EveryObjects = &n
	}
}

// check refuses what would make of a log mostly catalogs.
func (c *Catalog) check() error {
	if n := *c.EveryObjects; n != 0 && (n < 50 || n > 1e6) {
		return fmt.Errorf("%d: 50 to 1000000, or 0 for never", n)
	}
	return nil
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
	Mode string            `yaml:"mode"` // compliance or governance
	For  quantity.Duration `yaml:"for"`  // a day at least; default none
}

// Requests is a token bucket over the objects created, because they cost money.
type Requests struct {
	Rate  *float64 `yaml:"rate"`  // per second; 0 is unlimited; default 10
	Burst int      `yaml:"burst"` // default 100
}

// Metrics says where /metrics is served.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; default none (the control socket has it too)
	TLS    TLS    `yaml:"tls"`    // needed beyond loopback
}

// check returns the first setting that cannot work.
func (m Metrics) check() (setting string, err error) {
	if (m.TLS.Cert == "") != (m.TLS.Key == "") {
		return "metrics.tls", errors.New("cert and key belong together")
	}
	if m.Listen == "" {
		return "", nil
	}
	return "metrics.listen", checkListen(m.Listen, m.TLS.Cert != "", "metrics.tls")
}

// Log says what is logged, to standard error.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error; default info
	Format string `yaml:"format"` // text, json; default text
}

// nameRule keeps an agent's name fit for the names of files.
var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// siteRule is what state.CheckName takes: sites are in the journal's state.
var siteRule = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,99}$`)

func checkSite(name string) error {
	if siteRule.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%q: letters, digits and _.- only, 100 at most, a letter first", name)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

const minRate = 1.0 / 600

func (c *Agent) setDefaults() {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	defBytes := func(p *quantity.Bytes, v quantity.Bytes) {
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
	if c.WAL.Linger == 0 {
		c.WAL.Linger = quantity.Duration(2 * time.Millisecond)
	}
	if c.NBD.MaxConnections == 0 {
		c.NBD.MaxConnections = 64
	}
	if c.NBD.StallLimit == 0 {
		c.NBD.StallLimit = quantity.Duration(10 * time.Minute)
	}
	for i := range c.Quiesce {
		if c.Quiesce[i].Limit == 0 {
			c.Quiesce[i].Limit = quantity.Duration(10 * time.Second)
		}
	}
	c.Standby.setDefaults(c.State)
	if j := &c.Journal; len(j.Addresses) == 0 { // else all of it is the journal's own
		defBytes(&j.LogBudget, 2<<30)
		defBytes(&j.OptionalBacklog, min(j.LogBudget, c.WAL.Budget)/2)
		if j.Heartbeat == 0 {
			j.Heartbeat = quantity.Duration(time.Minute)
		}
		j.setDefaults()
		j.Catalog.setDefaults()
		setTargetDefaults(j.Targets)
	}
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
	case !siteRule.MatchString(c.Site):
		return "site", checkSite(c.Site)
	case !filepath.IsAbs(c.State):
		return "state", fmt.Errorf("%q is not an absolute path", c.State)
	case c.Name == "":
		return "name", errors.New("is empty and the host has no name")
	case c.Memory < 4<<20:
		return "memory", fmt.Errorf("%v is less than the minimum of 4MiB", c.Memory)
	case c.WAL.Segment < 4<<20 || c.WAL.Segment > 1<<30 || c.WAL.Segment%4096 != 0:
		return "wal.segment", fmt.Errorf("%v: 4MiB to 1GiB, a multiple of 4KiB", c.WAL.Segment)
	case c.WAL.Budget < 2*c.WAL.Segment:
		return "wal.budget", fmt.Errorf("%v is less than two segments of %v", c.WAL.Budget, c.WAL.Segment)
	case c.NBD.MaxConnections < 1 || c.NBD.MaxConnections > 4096:
		return "nbd.max_connections", fmt.Errorf("%d: 1 to 4096", c.NBD.MaxConnections)
	case time.Duration(c.NBD.StallLimit) < time.Second:
		return "nbd.stall_limit", fmt.Errorf("%v is less than the minimum of 1s", c.NBD.StallLimit)
	case (c.NBD.TLS.Cert == "") != (c.NBD.TLS.Key == ""):
		return "nbd.tls", errors.New("cert and key belong together")
	case !oneOf(c.Log.Level, "debug", "info", "warn", "error"):
		return "log.level", fmt.Errorf("%q: debug, info, warn or error", c.Log.Level)
	case !oneOf(c.Log.Format, "text", "json"):
		return "log.format", fmt.Errorf("%q: text or json", c.Log.Format)
	}
	groups := map[string]bool{}
	for i, q := range c.Quiesce {
		hook := fmt.Sprintf("quiesce[%d]", i)
		switch {
		case q.Group == "" || groups[q.Group]:
			return hook, fmt.Errorf("group %q: each hook names one group, and each group has one", q.Group)
		case len(q.Pre) == 0 || len(q.Post) == 0:
			return hook, fmt.Errorf("group %s: pre and post are both needed, each a list of a command and its "+
				"arguments", q.Group)
		case !filepath.IsAbs(q.Pre[0]) || !filepath.IsAbs(q.Post[0]):
			return hook, fmt.Errorf("group %s: %s and %s: name commands by absolute paths", q.Group, q.Pre[0],
				q.Post[0])
		case q.Limit < quantity.Duration(100*time.Millisecond) || q.Limit > quantity.Duration(10*time.Minute):
			return hook, fmt.Errorf("group %s: a limit of %v: 100ms to 10m", q.Group, q.Limit)
		}
		groups[q.Group] = true
	}
	if c.NBD.TCP != "" {
		if err := checkListen(c.NBD.TCP, c.NBD.TLS.Cert != "", "nbd.tls"); err != nil {
			return "nbd.tcp", err
		}
	}
	if setting, err := c.Metrics.check(); err != nil {
		return setting, err
	}
	if err := c.Identity.check(); err != nil {
		return "tls", err
	}
	if err := c.Control.check(c.Identity); err != nil {
		return "control.listen", err
	}
	if setting, err := c.Journal.check(c.Identity, c.WAL.Budget); err != nil {
		return "journal." + setting, err
	}
	if setting, err := c.Standby.check(c.Journal.Targets); err != nil {
		return "standby." + setting, err
	}
	return "", nil
}

// check returns the first setting of a journal that cannot work.
func (j *Journal) check(id Identity, wal quantity.Bytes) (setting string, err error) {
	if len(j.Addresses) > 0 {
		for _, s := range []struct {
			name string
			set  bool
		}{{"listen", j.Listen != ""}, {"advertise", j.Advertise != ""}, {"peers", len(j.Peers) > 0},
			{"targets", len(j.Targets) > 0},
			{"log_budget", j.LogBudget != 0}, {"optional_backlog", j.OptionalBacklog != 0},
			{"heartbeat", j.Heartbeat != 0},
			{"catalog", j.Catalog.EveryObjects != nil}} {
			if s.set {
				return s.name, errors.New("is of an embedded journal, and journal.addresses names another, which " +
					"has its own configuration: leave one of them out")
			}
		}
		return "addresses", checkAddresses(j.Addresses, id)
	}
	if setting, err := j.Member.check(id); err != nil {
		return setting, err
	}
	if j.LogBudget < 64<<20 {
		return "log_budget", fmt.Errorf("%v is less than the minimum of 64MiB", j.LogBudget)
	}
	if err := checkBacklog(j.OptionalBacklog, min(j.LogBudget, wal)); err != nil {
		return "optional_backlog", err
	}
	if err := j.Catalog.check(); err != nil {
		return "catalog.every_objects", err
	}
	return checkTargets("targets", j.Targets)
}

func (l *Lock) check(t *Target) error {
	const day = quantity.Duration(24 * time.Hour)
	switch {
	case *l == Lock{}:
		return nil
	case l.Mode == "" || l.For == 0:
		return errors.New("mode and for belong together, as in {mode: compliance, for: 30d}")
	case !oneOf(l.Mode, "compliance", "governance"):
		return fmt.Errorf("mode %q: compliance (nobody can shorten it) or governance", l.Mode)
	case l.For < day:
		return fmt.Errorf("for %v: a day (1d) at least, since gc extends what is needed once half of it is over", l.For)
	case !strings.HasPrefix(t.URL, "s3://"):
		return fmt.Errorf("%s has no Object Lock: only s3:// stores do", t.URL)
	}
	return nil
}

// checkBacklog leaves room beside what is kept for optional targets.
func checkBacklog(n, budget quantity.Bytes) error {
	if n < 1<<20 || n > budget/4*3 {
		return fmt.Errorf("%v: 1MiB to three quarters of %v, the least of the budgets of log and WAL", n, budget)
	}
	return nil
}

func checkTargets(all string, targets []Target) (string, error) {
	if len(targets) == 0 {
		return all, errors.New("name at least one object store")
	}
	seen := map[string]bool{}
	required := false
	for i, t := range targets {
		at := fmt.Sprintf("%s[%d]", all, i)
		switch {
		case strings.ContainsAny(t.Name, "/ ") || len(t.Name) > 64 || !printable(t.Name):
			return at + ".name", fmt.Errorf("%q: printable, no slash, no space, 64 bytes at most", t.Name)
		case !siteRule.MatchString(t.Site):
			return at + ".site", checkSite(t.Site)
		case seen[t.Name]:
			return all, fmt.Errorf("two are called %q", t.Name)
		case !strings.HasPrefix(t.URL, "file:///") && !strings.HasPrefix(t.URL, "s3://"):
			return at + ".url", fmt.Errorf("%q: file:///directory or s3://bucket/prefix", t.URL)
		case checkBucket(t.URL) != nil:
			return at + ".url", fmt.Errorf("%q: %w", t.URL, checkBucket(t.URL))
		case !(*t.Requests.Rate >= 0) || math.IsInf(*t.Requests.Rate, 0): // NaN too
			return at + ".requests.rate", fmt.Errorf("%v is not a rate", *t.Requests.Rate)
		case *t.Requests.Rate > 0 && *t.Requests.Rate < minRate:
			return at + ".requests.rate", fmt.Errorf(
				"%v requests per second is less than one in ten minutes; 0 is unlimited", *t.Requests.Rate)
		case t.Requests.Burst < 1:
			return at + ".requests.burst", fmt.Errorf("%d is less than 1", t.Requests.Burst)
		}
		if err := t.ObjectLock.check(&t); err != nil {
			return at + ".object_lock", err
		}
		seen[t.Name] = true
		required = required || !t.Optional
	}
	if !required {
		return all, errors.New("at least one must not be optional")
	}
	return "", nil
}

// checkBucket refuses what no bucket can be called.
func checkBucket(url string) error {
	bucket, is := strings.CutPrefix(url, "s3://")
	if !is {
		return nil
	}
	bucket, _, _ = strings.Cut(bucket, "/")
	return s3utils.CheckValidBucketName(bucket)
}

func oneOf(s string, all ...string) bool {
	for _, a := range all {
		if s == a {
			return true
		}
	}
	return false
}

// checkListen refuses to serve in clear beyond loopback; setting is that which gives TLS.
func checkListen(addr string, tls bool, setting string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return fmt.Errorf("%q is not host:port", addr)
	}
	ip := net.ParseIP(host)
	if !tls && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address, and nothing listens in clear elsewhere: set %s, or listen "+
			"on 127.0.0.1", addr, setting)
	}
	return nil
}
