// Package provenance keeps notes about an image in the extended attributes of its file: whose
// backing it is (package backing writes that), and which point of which volume a restore put
// there. Who writes an image, or takes one for a backing, looks there first.
package provenance
