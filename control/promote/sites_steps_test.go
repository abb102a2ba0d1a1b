package promote

import (
	"errors"
	"slices"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/claim"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// step does something that may come next, at random.
func (w *sitesWorld) step(sites int) {
	i, t := w.r.IntN(sites), w.r.IntN(sites)
	s, k := w.seats[i], w.takers[i]
	switch n := w.r.IntN(100); {
	case n < 4:
		w.up[i] = !w.up[i]
		w.say("site %s up: %v", siteName(i), w.up[i])
	case n < 8:
		w.cut[i][t] = i != t && !w.cut[i][t]
	case n < 12 && len(w.late) > 0:
		k := w.r.IntN(len(w.late))
		w.late[k]()
		w.late = slices.Delete(w.late, k, k+1)
	case n < 15:
		w.logs[t].catalogUp()
	case !w.up[i]:
	case s != nil && !s.over:
		w.seat(i, t, n)
	case s != nil && n < 60:
		w.failBack(i)
	case k != nil && n < 20:
		k.begin() // it was killed; what it is about was written down
	case k != nil && n < 22 && !w.logs[k.target].has(k.token):
		w.takers[i] = nil // given up
	case k != nil:
		w.take(i)
	case n < 19:
		w.force(i, sites)
	default:
		w.takeUp(i)
	}
}

// seat is what a journal does where it is.
func (w *sitesWorld) seat(i, t, n int) {
	s := w.seats[i]
	to := &s.targets[t]
	switch {
	case n < 17:
		s.token.Term, s.token.Writer = s.token.Term+1, w.writer()
		for k := range s.targets {
			s.targets[k].ready, s.targets[k].walking = false, false
		}
		w.say("%s crashes", siteName(i))
	case n < 35 && s.hand < 0 && len(s.hist) < 40:
		s.hist = append(s.hist, item{epoch: s.token.Epoch, site: int8(i)})
	case n < 42 && s.hand < 0 && t != i && to.ready:
		s.hist = append(s.hist, item{epoch: s.token.Epoch, site: int8(i), hand: int8(t) + 1})
		s.hand, s.back = t, 0
		w.say("%s hands over to %s with %d", siteName(i), siteName(t), len(s.hist))
	case n < 36 && s.hand >= 0 && s.back == 0: // its writers wait until this counts
		s.hist = append(s.hist, item{epoch: s.token.Epoch, site: int8(i)})
		s.back = uint64(len(s.hist))
		w.say("%s takes the hand-over back with %d", siteName(i), s.back)
	case to.gone || !w.reaches(i, t):
	case to.ready:
		w.upload(i, t)
	default:
		w.claim(i, t)
	}
}

// twice reports whether two sites have fenced logs under one epoch, up to some.
func (w *sitesWorld) twice(upTo uint64) bool {
	first := map[uint64]segment.Token{}
	for t := range w.logs {
		for i := range w.logs[t].objects {
			o := &w.logs[t].objects[i]
			if o.Type != segment.Fence || o.Token.Term > 0 || o.Token.Epoch > upTo {
				continue
			}
			if other, known := first[o.Token.Epoch]; known && other != o.Token {
				return true
			}
			first[o.Token.Epoch] = o.Token
		}
	}
	return false
}

var errOther = fail.New(fail.Fenced, "claim", "log", "another history")

// claim makes a target's log the seat's.
func (w *sitesWorld) claim(i, t int) {
	s := w.seats[i]
	to := &s.targets[t]
	if !to.walking {
		to.walking, to.walk = true, claim.Arrive(s.token)
		if to.arrived {
			to.walk = claim.Return(s.token, to.at)
		}
	}
	done, err := w.walk(t, &to.walk, stateOf(s.hist), func(o *stored) error {
		if o.Last > uint64(len(s.hist)) || !slices.Equal(o.items, s.hist[o.First-1:o.Last]) {
			return errOther
		}
		return nil
	})
	switch {
	case done:
		to.arrived, to.ready, to.walking, to.at = true, true, false, to.walk.Place()
		w.say("%s has the log of %s from %d on", siteName(i), siteName(t), to.at.Next)
		w.counted(i, t)
	case err != nil:
		w.refused(i, t, err)
	}
}

// refused: a log is another writer's, or of another history.
func (w *sitesWorld) refused(i, t int, err error) {
	s := w.seats[i]
	_, superseded := claim.Superseded(err)
	switch {
	case fail.Is(err, fail.Retry):
	case superseded:
		s.over = true
		w.say("%s finds in the log of %s that it is superseded", siteName(i), siteName(t))
	case fail.Is(err, fail.Fenced) && w.twice(s.token.Epoch): // another fenced it under an epoch of ours
		s.targets[t].gone = true
	default:
		w.fault("seat %s at the log of %s: %v", siteName(i), siteName(t), err)
	}
}

// upload creates the next object.
func (w *sitesWorld) upload(i, t int) {
	s := w.seats[i]
	to, l := &s.targets[t], &w.logs[t]
	first := to.at.Next
	p := to.at.Position
	if p < uint64(len(l.objects)) {
		switch there := &l.objects[p]; {
		case there.Token == s.token: // our own, after a lost answer
			to.at.Position, to.at.Next = p+1, there.Last+1
			w.counted(i, t)
		case there.Token.Compare(s.token) < 0: // void
			to.at.Position++
		default:
			w.refused(i, t, claim.ErrLost(s.token, there.Token))
		}
		return
	}
	if first > uint64(len(s.hist)) {
		return
	}
	last := min(uint64(len(s.hist)), first+uint64(w.r.IntN(3)))
	o := stored{Object: claim.Object{Type: segment.Segment, Token: s.token, First: first, Last: last,
		Cuts: w.without != "cuts"}, items: slices.Clone(s.hist[first-1 : last])}
	switch w.r.IntN(6) {
	case 0: // no answer, and it is carried out at any time
		w.late = append(w.late, func() { l.put(p, o) })
		w.say("%s's %d-%d to %s is on its way", siteName(i), first, last, siteName(t))
	default:
		l.put(p, o)
		w.say("%s writes %d-%d to %s", siteName(i), first, last, siteName(t))
	}
}

// counted holds a log against the journal that has just counted what is in it, and acknowledges.
func (w *sitesWorld) counted(i, t int) {
	s := w.seats[i]
	at := &s.targets[t].at
	l := modelLog{objects: w.logs[t].objects[:at.Position]}
	hist, end, err := l.read()
	if err != nil || end.Next != at.Next || !isPrefix(hist, s.hist) {
		w.fault("seat %s counts %d entries in the log of %s, which has %v of %v, %v", siteName(i), at.Next-1,
			siteName(t), hist, s.hist, err)
		return
	}
	if s.hand == t && s.back > 0 && at.Next > s.back {
		s.hand = -1
		w.moves[2]++
	}
	w.acknowledge(i)
}

// acknowledge is what ack: remote tells the writers.
func (w *sitesWorld) acknowledge(i int) {
	s := w.seats[i]
	st := stateOf(s.hist)
	least, some := ^uint64(0), false
	for t := range s.targets {
		if !w.required[t] || !st.Protects(siteName(t)) {
			continue
		}
		index := uint64(0)
		if s.targets[t].arrived {
			index = s.targets[t].at.Next - 1
		}
		if least, some = min(least, index), true; w.without == "all of them" {
			least = max(index, s.acked)
			break
		}
	}
	if !some || least <= s.acked {
		return
	}
	s.acked = least
	for _, n := range w.seats { // who took over from a log that counts here
		if n != nil && n.token.Epoch > s.token.Epoch && w.required[n.taken] && n.taken != i && !w.conflict &&
			!w.optional && !isPrefix(s.hist[:least], n.hist) {
			w.fault("seat %s acknowledges %d behind epoch %d", siteName(i), least, n.token.Epoch)
		}
	}
	if s.token.Epoch == w.newest {
		w.promised = slices.Clone(s.hist[:least])
	}
}

// force begins to take over without the former seat.
func (w *sitesWorld) force(i, sites int) {
	var c choice
	order := []int{i}
	for t := range sites {
		if t != i {
			order = append(order, t)
		}
	}
	for _, t := range order {
		c.add(siteName(t), w.required[t])
	}
	for k := c.next(); k >= 0; k = c.next() {
		if !w.reaches(i, order[k]) {
			c.away(k)
			continue
		}
		hist, end, _ := w.logs[order[k]].read()
		epoch := end.Token.Epoch
		if w.without == "epochs" { // the longest is the farthest
			c.found(k, end.Next-1, 1, state.Seat{Site: stateOf(hist).Seat.Site, Epoch: 1})
			continue
		}
		c.found(k, end.Next-1, epoch, stateOf(hist).Seat)
	}
	taken := c.taken()
	if taken < 0 {
		return
	}
	target := order[taken]
	hist, end, _ := w.logs[target].read()
	k := &modelTaker{target: target, token: segment.Token{Epoch: end.Token.Epoch + 1, Writer: w.writer()},
		state: stateOf(hist), at: end}
	for t := range sites { // one of those that counted is there
		if w.required[t] && t != w.promiser && w.reaches(i, t) {
			k.promise = w.promised
		}
	}
	for k, t := range order { // one at the site that is lost for others as well is not asked
		if c.logs[k].state == reached && w.logs[t].has(w.fence) && !w.logs[target].has(w.fence) {
			w.fault("site %s takes the log of %s, and the journal went on in that of %s", siteName(i), siteName(target),
				siteName(t))
		}
	}
	// Behind the fence of a log that does not count for it, a seat that lives goes on to acknowledge: known, and
	// not solved.
	if s := w.seats[target]; !w.required[target] || target == w.promiser && s != nil && !s.over {
		w.optional = true
	}
	k.begin()
	w.takers[i] = k
	w.say("%s begins to take the log of %s, of %d entries, under epoch %d", siteName(i), siteName(target), len(hist),
		k.token.Epoch)
}

// takeUp takes a hand-over up that the log here ends with.
func (w *sitesWorld) takeUp(i int) {
	hist, end, _ := w.logs[i].read()
	n := len(hist)
	if n == 0 || hist[n-1].hand != int8(i)+1 || end.Token.Epoch != hist[n-1].epoch {
		return
	}
	k := &modelTaker{target: i, token: segment.Token{Epoch: end.Token.Epoch + 1, Writer: w.writer()},
		state: stateOf(hist), planned: uint64(n), at: end,
		anywhere: w.without == "the last entry"}
	k.begin()
	w.takers[i] = k
	w.say("%s begins to take the hand-over at %d up", siteName(i), n)
}

// take goes on with it.
func (w *sitesWorld) take(i int) {
	k := w.takers[i]
	if !w.reaches(i, k.target) {
		return
	}
	done, err := w.walk(k.target, &k.walk, k.state, nil)
	for t := range w.logs { // two sites take over, each without the other's log
		w.conflict = w.conflict || t != k.target && w.logs[k.target].has(k.token) &&
			slices.ContainsFunc(w.logs[t].objects, func(o stored) bool { return o.Token.Epoch >= k.token.Epoch })
	}
	switch {
	case done:
		w.takers[i] = nil
		w.inherit(i, k)
	case err == nil || fail.Is(err, fail.Retry):
	case errors.Is(err, claim.ErrRolledBack), fail.Is(err, fail.Fenced):
		w.takers[i] = nil
		w.say("%s does not take over: %v", siteName(i), err)
	default:
		w.fault("site %s takes over: %v", siteName(i), err)
	}
}

// inherit: the journal goes on here.
func (w *sitesWorld) inherit(i int, k *modelTaker) {
	place := k.walk.Place()
	l := modelLog{objects: w.logs[k.target].objects[:place.Position]}
	hist, end, err := l.read()
	if err != nil || end.Token != k.token {
		w.fault("site %s has the log of %s, and its fence is void: %v %v", siteName(i), siteName(k.target), end, err)
		return
	}
	if other, taken := w.epochs[k.token.Epoch]; taken {
		if w.conflict = true; other == k.target {
			w.fault("two sites have epoch %d of the log of %s", k.token.Epoch, siteName(other))
		}
	}
	w.conflict = w.conflict || !l.has(w.fence)
	w.epochs[k.token.Epoch] = k.target
	promise := k.promise
	if w.required[k.target] && k.target != w.promiser { // nothing is acknowledged behind its fence
		promise = w.promised
	}
	switch {
	case w.conflict:
	case k.planned > 0:
		w.moves[1]++
		w.inOrder(i, k, hist)
	case !w.optional && !isPrefix(promise, hist):
		w.fault("site %s goes on with %v, and %v was acknowledged", siteName(i), hist, promise)
	default:
		w.moves[0]++
	}
	if k.token.Epoch >= w.newest { // what is here alone now is unprotected, until it is acknowledged again
		w.newest, w.fence, w.promised, w.promiser = k.token.Epoch, k.token, nil, i
	}
	s := &modelSeat{token: segment.Token{Epoch: k.token.Epoch, Term: 1, Writer: w.writer()}, taken: k.target, hand: -1,
		hist: append(slices.Clone(hist), item{epoch: k.token.Epoch, site: int8(i)})}
	s.targets[k.target] = modelTarget{at: claim.Place{Position: place.Position, Next: place.Next, Token: k.token},
		arrived: true}
	w.seats[i] = s
	w.say("%s is the seat of epoch %d, from %d on", siteName(i), k.token.Epoch, place.Next)
}

// inOrder: nothing at all is lost by a hand-over, and it was not taken back.
func (w *sitesWorld) inOrder(i int, k *modelTaker, hist []item) {
	from := int(hist[k.planned-1].site)
	s := w.seats[from]
	if s == nil || s.token.Epoch != k.token.Epoch-1 { // it is gone since
		return
	}
	if uint64(len(hist)) != k.planned || !isPrefix(hist, s.hist) || s.hand < 0 {
		w.fault("site %s took the hand-over up at %d with %v, and %s has %v, back %d", siteName(i), k.planned, hist,
			siteName(from), s.hist, s.back)
	}
}

// failBack makes a former seat a place that may take over again, by a log that went on.
func (w *sitesWorld) failBack(i int) {
	s := w.seats[i]
	for t := range w.logs {
		if !w.reaches(i, t) {
			continue
		}
		hist, end, _ := w.logs[t].read()
		first := stateOf(hist).DeadFrom(s.token.Epoch)
		if end.Token.Epoch <= s.token.Epoch || first == 0 {
			continue
		}
		if !w.conflict && (first > uint64(len(s.hist))+1 || !isPrefix(s.hist[:first-1], hist)) {
			w.fault("site %s goes back to %d of %v, and the log has %v", siteName(i), first, s.hist, hist)
		}
		w.seats[i] = nil
		w.moves[3]++
		w.say("%s is a standby again", siteName(i))
		return
	}
}
