// Package identity says who is who: the cluster's certificate authority, the
// certificates that name a role, and the one-time tokens by which a machine
// gets its first certificate.
//
// Every connection of Godwit is mutual TLS 1.3 between two certificates of one
// authority. A certificate names a role, and for agents what they run on, a site
// and a name, in a URI of the form
//
//	godwit://<cluster>/<role>/<kind>/<site>/<name>      "-" where there is nothing
//
// Peers are checked by that, not by host names: a host's address changes with
// the network it is reached over (tunnel, NAT, a lab's namespace), its place in
// the cluster does not, and a name in DNS says nothing about a role.
//
// The way of a new machine in, in order: a controller makes a Token and stores
// its hash · the machine parses the text, makes a key and a request
// (NewKeyAndCSR), and calls the controller with JoinTLS, which trusts only the
// authority whose fingerprint is in the token · the controller takes the token
// from the store and issues a certificate for the identity that the *token*
// stands for, whatever the request says · the machine checks the answer
// (Token.Check) and saves it (Credentials.Save). Private keys never travel.
//
// What may not enter: the store, the network calls of joining, decisions about
// what a role may do.
package identity
