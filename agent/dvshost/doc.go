// Package dvshost hosts WebAssembly processes on a node of the DVS: it binds an endpoint for each, feeds it one message at a time, answers,
// and moves it to another node while its callers wait for some milliseconds.
//
// The caller's duties, in order: a dvs/node that serves a socket; New with that node; Run processes; Close, which ends them all. Handler
// is what a person may ask of it, PeerHandler what other hosts may: whoever serves them lets nobody else in. Serve does all of it
// for a node that runs alone, without a controller.
//
// A move, as its source drives it (Move), over the steps of package dvs/node:
//
//	source                               destination
//	Prepare: names the module ─────────► has it, or is sent it; a blank process waits as a standby
//	converge: pages that changed ──────► are put into it, again and again, until few are left
//	quiesce: held, the rest is sent ───► restored by the endpoint's own way
//	                                     commit: it is the owner
//	commit: ends
//
// What decides is not here when a controller drives: it calls node.Do itself, and of this package Prepare, Converge and Forget.
package dvshost
