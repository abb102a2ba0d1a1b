// Package pki is who may speak to whom: certificates that carry a role and a name,
// the TLS settings made of them, and a small certificate authority for those who
// have none.
//
// A certificate's role is a URI in its subject alternative names,
// pollux:<role>/<name>, with the roles journal, agent, operator and reader. Both
// ends of every connection verify the other's chain and role; host names do not
// matter, because the authority signs for Pollux alone. Files are read anew for
// each handshake, so that a rotation needs no restart. The journal, the agents'
// sessions and the operators' verbs use it.
package pki
