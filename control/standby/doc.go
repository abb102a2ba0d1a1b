// Package standby is the daemon of `pollux standby`: it follows the object log of one target of
// its configuration, keeps the volumes of the wanted groups as warm images (package
// replicator/twin/standby), and answers for them on the control socket. Its configuration is that
// of the agent which the host becomes when the journal is promoted here: Become ends the
// following at a position, and lets another daemon take this one's place in the process.
package standby
