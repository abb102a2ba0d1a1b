// Package private makes and opens directories and files that only the process's own
// user may have a hand in, although they lie where others can make names too (as
// /dev/shm and /var/tmp are).
//
// It guarantees that what it returns was made by this user or by root, is what it
// should be (no symbolic link, no device) and can be changed by nobody else. What is
// not like that is refused by name (fail.Refused), and left as it is.
package private
