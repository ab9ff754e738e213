// Package dvshost hosts WebAssembly processes on a node of the DVS: it binds an endpoint for each, feeds it one message at a time, answers,
// and moves it to another node while its callers wait for some milliseconds.
//
// The caller's duties, in order: a dvs/node that serves a socket; New with that node; Run processes; Close, which ends them all. Handler
// is what a person may ask of it, PeerHandler what other hosts may: whoever serves them lets nobody else in. Serve does all of it
// for a node that runs alone, without a controller.
//
// A move, as its source runs it (Move) by the plan of package migration:
//
//	source                                       destination
//	endpoint/source/prepare: it can move         process/destination/prepare: has the module, or is sent it; a blank process
//	                                             endpoint/destination/prepare: bound as a standby
//	process/source/converge: pages that
//	changed, again, until few are left ────────► are put into it
//	endpoint/source/quiesce: held, the rest ───► restored by the endpoint's own way
//	the decision is in the book ───────────────► endpoint/destination/commit: it is the owner
//	endpoint/source/commit: ends
package dvshost
