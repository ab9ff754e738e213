// Package agent runs on every host and edge. It dials the controller, carries out the tasks that come back, and tells
// what it sees. On a host it wires virtual servers, volumes and taps together; on an edge tunnels, the switch and routes.
//
// It decides nothing. What keeps it harmless is the journal (migration.Journal, one per service, on disk): whatever the
// network delays, doubles or reorders, a step of an attempt that is over is refused, and one that is done is not done
// twice. An agent may be killed at any moment: virtual servers, routes and data outlive it, and its successor takes up
// what is there. What cannot be taken up, a stream that died with the process, it reports as lost.
//
// What may not enter: the order of steps (package migration), and how a machine, a volume or a route is handled
// (packages server, storage, network).
package agent
