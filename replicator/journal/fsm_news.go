package journal

import "slices"

// news is the order in which keys of the control state changed. Followers read on
// from where they were; one that is too far behind begins anew.
type news struct {
	first uint64 // number of keys[0]
	keys  []string
}

const newsKeys = 8192

func (n *news) add(key string) {
	if len(n.keys) == newsKeys {
		n.keys = append(n.keys[:0], n.keys[newsKeys/2:]...)
		n.first += newsKeys / 2
	}
	n.keys = append(n.keys, key)
}

// end is the number of the next one.
func (n *news) end() uint64 { return n.first + uint64(len(n.keys)) }

// since returns the keys that changed from number from on, each once and in order, and
// whether all of that is known.
func (n *news) since(from uint64) (keys []string, known bool) {
	if from < n.first || from > n.end() {
		return nil, false
	}
	keys = slices.Clone(n.keys[from-n.first:])
	slices.Sort(keys)
	return slices.Compact(keys), true
}

// restart makes every follower begin anew.
func (n *news) restart() { n.first, n.keys = n.end()+newsKeys, nil }
