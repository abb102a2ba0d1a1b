// Package branch is the format of what a site wrote that the journal does not have, because it went
// on at another one: the contents of the divergent extents, saved before those are put back. A branch
// is a directory (docs/formats/branch.md): one record that says what it is, written last, and for each
// volume a file of extents. Together with the log at the branch's base it is the volume as that site
// had it last, which Mount serves.
//
// It guarantees that a branch which Load returns was whole and on the disk when Save returned, and
// that nothing damaged is read from it as content. Package control/failback makes branches.
package branch
