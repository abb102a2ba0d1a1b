// Package verbs has what an agent's daemon and a journal member's carry out alike: the
// verbs that look at the journal (status, groups, audit), those about its members, and the
// record of who asked for what. Both daemons see the journal through one interface,
// Journal, whether it runs in their process or on other hosts.
package verbs
