// Package comparison holds a volume in use against its twin, without stopping either: `pollux
// verify VOLUME --live`.
package comparison
