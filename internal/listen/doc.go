// Package listen is what every listener of Pollux does alike, so that no client, and no
// shortage on this host, makes it deaf: errors of Accept are waited out (Patient), the
// connections are bounded (Places), and what it logs of them is too (Sparse).
//
// A listener has two Places. Connections that have not said yet who they are and what
// they want wait in one; a newcomer that finds it full takes the oldest one's place, so
// that idle or hostile clients keep out nobody who speaks at once. Sessions are in the
// other: a peer has a share of it, and who comes when it is full is refused.
package listen
