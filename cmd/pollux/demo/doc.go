// Package demo plays the loss of a site and shows what is left: it runs the
// pollux binary as a user would, writes real data through NBD, kills the agent in
// the middle of it, deletes everything that the agent had, restores from the
// object store alone, and compares with a model of its own.
//
// What it calls verified: the bookmark's image equals the model at the
// bookmark, and the newest image equals the model at its LSN, which is not
// below the last one that was reported durable.
package demo
