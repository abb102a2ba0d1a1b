package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Store is what the checks need of an object store; errors have fail's kinds.
type Store interface {
	URL() string
	Create(ctx context.Context, name string, body []byte) error
	Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error)
	Size(ctx context.Context, name string) (int64, error)
	List(ctx context.Context, prefix string, fn func(Info) error) error
	Delete(ctx context.Context, name string) error
	// Keep creates an object as the uploader does, and says in which mode and for how
	// long the store keeps it from deletion (Object Lock); zero is not at all.
	Keep(ctx context.Context, name string, body []byte) (mode string, span time.Duration, err error)
}

// Info is an object in a list.
type Info struct {
	Name     string
	Bytes    int64
	Modified time.Time // the store's clock
}

const (
	raceWriters  = 16
	raceRounds   = 5
	tailBytes    = 64 << 10
	samples      = 30
	storeTimeout = 2 * time.Minute
	slowPut      = time.Second
	maxSkew      = 5 * time.Minute // S3 refuses requests beyond 15 minutes
	warnSkew     = 2 * time.Second
	keptObject   = "lock" // the last one that is made
)

// storeCheck is one run over one store, below a prefix that nobody else uses.
type storeCheck struct {
	s      Store
	prefix string

	kept bool // by Object Lock

	mu      sync.Mutex
	written []string
}

// CheckStore makes all checks of a store and deletes what it wrote.
func CheckStore(ctx context.Context, s Store, tell func(Result)) []Result {
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	c := &storeCheck{s: s, prefix: "doctor/" + rand.Text() + "/"}
	all := run(limited, s.URL(), tell, []func(context.Context) Result{c.access})
	if Worst(all) == Fail {
		return all // the others would say the same
	}
	all = append(all, run(limited, s.URL(), tell,
		[]func(context.Context) Result{c.race, c.readBack, c.tail, c.absent, c.list, c.clock, c.putSmall, c.putLarge,
			c.objectLock})...)
	if err := limited.Err(); err != nil && ctx.Err() == nil {
		all = append(all, run(ctx, s.URL(), tell, []func(context.Context) Result{func(context.Context) Result {
			return failed("time", "check the network to the store", "the checks were not through after %v",
				storeTimeout)
		}})...)
	}
	// Even when interrupted: nothing should stay.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return append(all, run(clean, s.URL(), tell, []func(context.Context) Result{c.cleanUp})...)
}

func (c *storeCheck) create(ctx context.Context, name string, body []byte) error {
	c.mu.Lock()
	c.written = append(c.written, c.prefix+name)
	c.mu.Unlock()
	return c.s.Create(ctx, c.prefix+name, body)
}

// random returns bytes that do not compress.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func broken(check string, err error) Result {
	hint := fail.HintOf(err)
	if hint == "" && fail.Is(err, fail.Denied) {
		hint = "the journal's credentials need PUT, GET and ListBucket"
	}
	return failed(check, hint, "%v", err)
}

// access tells first whether the store can be reached at all.
func (c *storeCheck) access(ctx context.Context) Result {
	const check = "create an object"
	start := time.Now()
	if err := c.create(ctx, "access", []byte("pollux doctor")); err != nil {
		return broken(check, err)
	}
	return ok(check, "done in %.1f ms", ms(time.Since(start)))
}

// race lets many writers create one name at once: exactly one may win, and the
// object must be the winner's.
func (c *storeCheck) race(ctx context.Context) Result {
	const check = "conditional create under a race"
	const hint = "the object log is not safe in this store: it needs If-None-Match: * (file://: link(2)) with " +
		"exactly one winner"
	unclear, won := 0, ""
	for round := range raceRounds {
		name := fmt.Sprintf("race-%d", round)
		winners, retries, bodies, err := c.raceOnce(ctx, name)
		if err != nil {
			return broken(check, err)
		}
		unclear += retries
		switch {
		case len(winners) > 1:
			return failed(check, hint, "%d of %d writers were told that they had created the same object", len(winners),
				raceWriters)
		case len(winners) == 0 && retries == 0:
			return failed(check, hint, "all %d writers were told that the object existed before", raceWriters)
		case len(winners) == 0:
			continue
		}
		got, err := c.s.Read(ctx, c.prefix+name, 0, -1, nil)
		if err != nil {
			return broken(check, err)
		}
		if won = name; !bytes.Equal(got, bodies[winners[0]]) {
			return failed(check, hint, "the object is not the one of the writer that was told it had won")
		}
	}
	if won == "" {
		return failed(check, "check the store and the network to it", "no writer got a clear answer in %d rounds",
			raceRounds)
	}
	if err := c.s.Create(ctx, c.prefix+won, []byte("late")); !fail.Is(err, fail.Exists) {
		return failed(check, hint, "creating an object that exists gave: %v", err)
	}
	text := "%d rounds of %d writers: one winner each, and a later create is refused"
	if unclear > 0 {
		text += fmt.Sprintf(" (%d replies were conflicts to be retried)", unclear)
	}
	return ok(check, text, raceRounds, raceWriters).
		with(map[string]any{"rounds": raceRounds, "writers": raceWriters, "retries": unclear})
}

// raceOnce returns who won, and how many got no clear answer.
func (c *storeCheck) raceOnce(ctx context.Context, name string) (
	winners []int, retries int, bodies [][]byte, err error) {
	errs := make([]error, raceWriters)
	start := make(chan struct{})
	var g sync.WaitGroup
	for w := range raceWriters {
		bodies = append(bodies, random(4096+w))
		g.Go(func() {
			<-start
			errs[w] = c.create(ctx, name, bodies[w])
		})
	}
	close(start)
	g.Wait()
	for w, e := range errs {
		switch {
		case e == nil:
			winners = append(winners, w)
		case fail.Is(e, fail.Retry):
			retries++
		case !fail.Is(e, fail.Exists):
			return nil, 0, nil, e
		}
	}
	return winners, retries, bodies, ctx.Err()
}

func (c *storeCheck) readBack(ctx context.Context) Result {
	const check = "read back"
	body := random(1 << 20)
	if err := c.create(ctx, "object", body); err != nil {
		return broken(check, err)
	}
	got, err := c.s.Read(ctx, c.prefix+"object", 0, -1, nil)
	if err != nil {
		return broken(check, err)
	}
	if !bytes.Equal(got, body) {
		return failed(check, "the store, or something before it, changes objects",
			"%d bytes that were written came back as %d others", len(body), len(got))
	}
	return ok(check, "%s just written are there at once, and the same", size(int64(len(body))))
}

// tail is how restores find an object's index.
func (c *storeCheck) tail(ctx context.Context) Result {
	const check = "range read of the tail"
	whole, err := c.s.Read(ctx, c.prefix+"object", 0, -1, nil)
	if err != nil {
		return broken(check, err)
	}
	tail, err := c.s.Read(ctx, c.prefix+"object", -tailBytes, -1, nil)
	if err != nil {
		return broken(check, err)
	}
	mid, err := c.s.Read(ctx, c.prefix+"object", 1000, 5000, nil)
	if err != nil {
		return broken(check, err)
	}
	n, err := c.s.Size(ctx, c.prefix+"object")
	if err != nil {
		return broken(check, err)
	}
	if !bytes.HasSuffix(whole, tail) || len(tail) != tailBytes || len(whole) < 6000 ||
		!bytes.Equal(mid, whole[1000:6000]) || n != int64(len(whole)) {
		return failed(check, "the store must support range requests", "a range of an object is not that part of it")
	}
	return ok(check, "the last %s and 5000 bytes in the middle are right", size(tailBytes))
}

// absent: a missing key must not look like a forbidden one, since a 403 is never
// taken for absence.
func (c *storeCheck) absent(ctx context.Context) Result {
	const check = "missing object"
	_, rerr := c.s.Read(ctx, c.prefix+"absent", -tailBytes, -1, nil)
	_, serr := c.s.Size(ctx, c.prefix+"absent")
	for _, err := range []error{rerr, serr} {
		switch {
		case fail.Is(err, fail.NotFound):
		case err == nil:
			return failed(check, "", "an object that nobody wrote can be read")
		case fail.Is(err, fail.Denied):
			return failed(check, "allow these credentials ListBucket on the bucket: without it a missing key reads "+
				"as 403, and a journal cannot find the end of its log",
				"it reads as forbidden, not as absent: %v", err)
		default:
			return broken(check, err)
		}
	}
	return ok(check, "it reads as absent, not as forbidden")
}

// list is what restores begin with.
func (c *storeCheck) list(ctx context.Context) Result {
	const check = "listing"
	seen := map[string]int64{}
	err := c.s.List(ctx, c.prefix, func(i Info) error { seen[i.Name] = i.Bytes; return nil })
	switch {
	case fail.Is(err, fail.Denied):
		return failed(check, "allow these credentials ListBucket on the bucket; restores need it", "%v", err)
	case err != nil:
		return broken(check, err)
	}
	if seen[c.prefix+"object"] != 1<<20 || seen[c.prefix+"access"] == 0 || len(seen) != raceRounds+2 {
		return failed(check, "the store must be strongly consistent", "%d objects just written are listed as %d",
			raceRounds+2, len(seen))
	}
	return ok(check, "all %d objects just written are listed", len(seen))
}

// clock compares this host's clock with the store's, as an object's time tells
// it. Many stores know whole seconds only.
func (c *storeCheck) clock(ctx context.Context) Result {
	const check = "clock against the store"
	before := time.Now()
	if err := c.create(ctx, "clock", []byte("now")); err != nil {
		return broken(check, err)
	}
	after := time.Now()
	var at time.Time
	if err := c.s.List(ctx, c.prefix+"clock", func(i Info) error { at = i.Modified; return nil }); err != nil {
		return broken(check, err)
	}
	if at.IsZero() {
		return ok(check, "the store tells no time")
	}
	skew := time.Duration(0)
	switch earliest := before.Truncate(time.Second); {
	case at.Before(earliest):
		skew = at.Sub(before)
	case at.After(after):
		skew = at.Sub(after)
	}
	v := map[string]any{"skew_seconds": skew.Seconds()}
	const hint = "run chrony or another time service: --at means this host's time, and S3 refuses requests that " +
		"are off by 15 minutes"
	switch {
	case skew.Abs() > maxSkew:
		return failed(check, hint, "the store's clock differs by %v", skew.Round(time.Second)).with(v)
	case skew.Abs() > warnSkew:
		return warn(check, hint, "the store's clock differs by %v", skew.Round(time.Millisecond)).with(v)
	}
	return ok(check, "no difference that could be told").with(v)
}

// objectLock tells whether whoever may delete could delete the twin.
func (c *storeCheck) objectLock(ctx context.Context) Result {
	const check = "Object Lock"
	c.mu.Lock()
	c.written = append(c.written, c.prefix+keptObject)
	c.mu.Unlock()
	mode, span, err := c.s.Keep(ctx, c.prefix+keptObject, []byte("pollux doctor"))
	switch {
	case err != nil:
		return broken(check, err)
	case mode == "unseen":
		return warn(check, "allow s3:GetObjectRetention and s3:GetBucketObjectLockConfiguration to see it",
			"these credentials may not see whether objects are kept from deletion")
	case mode == "":
		return ok(check, "none: nothing but the credentials protects the twin from deletion").
			with(map[string]any{"for_seconds": 0})
	}
	c.kept = true
	return ok(check, "the store keeps new objects from deletion for %v (%s)", span.Round(time.Minute),
		strings.ToLower(mode)).
		with(map[string]any{"mode": mode, "for_seconds": int64(span.Round(time.Minute) / time.Second)})
}

func (c *storeCheck) putSmall(ctx context.Context) Result { return c.put(ctx, 64<<10, samples) }
func (c *storeCheck) putLarge(ctx context.Context) Result { return c.put(ctx, 1<<20, samples/2) }

func (c *storeCheck) put(ctx context.Context, bytes, count int) Result {
	check := fmt.Sprintf("PUT of %s", size(int64(bytes)))
	var all []time.Duration
	for i := range count {
		body := random(bytes)
		start := time.Now()
		if err := c.create(ctx, fmt.Sprintf("put-%d-%d", bytes, i), body); err != nil {
			return broken(check, err)
		}
		all = append(all, time.Since(start))
	}
	p50, p99 := quantile(all, 0.5), quantile(all, 0.99)
	text := fmt.Sprintf("p50 %.1f ms, p99 %.1f ms, one at a time over a warm connection; lag cannot be less",
		ms(p50), ms(p99))
	if p99 > slowPut {
		return warn(check, "the network or the store is slow; look at both, and at congestion", "%s", text).
			with(latencies(all))
	}
	return ok(check, "%s", text).with(latencies(all))
}

// cleanUp deletes what the checks wrote, where that is permitted: a journal's
// credentials need not be able to.
func (c *storeCheck) cleanUp(ctx context.Context) Result {
	const check = "clean up"
	left, seen := 0, map[string]bool{}
	var first error
	for _, name := range c.written {
		if seen[name] {
			continue
		}
		seen[name] = true
		if err := c.s.Delete(ctx, name); err != nil {
			left++
			if first == nil {
				first = err
			}
			if fail.Is(err, fail.Denied) && !c.kept {
				left = len(c.written) // or fewer; the others will not go either
				break
			}
		}
	}
	switch {
	case first == nil:
		return ok(check, "the %d objects that were written are deleted", len(seen))
	case c.kept:
		return ok(check, "%d of %d objects that were written stay below %s until their dates (Object Lock)", left,
			len(seen), c.prefix)
	case fail.Is(first, fail.Denied):
		r := ok(check, "these credentials may not delete, which is right for a journal; the test objects stay below %s",
			c.prefix)
		r.Hint = "delete " + c.prefix + " with other credentials"
		return r
	}
	return warn(check, "delete "+c.prefix+" by other means", "%d test objects stay: %v", left, first)
}
