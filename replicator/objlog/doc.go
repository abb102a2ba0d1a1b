// Package objlog is the object log as readers and its writer both see it: the names of
// positions, and reading an object's footer by its tail. What the objects hold is package
// segment's, what a log means package twin's. It needs neither Raft nor the journal, so that
// whatever works from the bucket alone links none of that.
package objlog
