// Package native runs any program of Linux as a process that can be moved as a whole, by CRIU: memory, threads, descriptors, timers.
//
// The caller's duties, in order: Find CRIU, which says what is missing; Prepare a place for the program; Start it there, or Restore it from the
// image that Dump of another place has made; Close the place, which ends what runs in it. Dump leaves the program stopped: then either
// Continue it here, or Close the place and Continue the restored one, never both. Send and Receive carry an image from machine to machine. A
// program of ours has to call Shepherd when it is run with the arguments in Options.Shepherd.
//
// A place is a process-id and mount namespace of its own, in which the shepherd is process 1: so the program gets the same process ids on
// every machine, beside its own stopped original on the same machine too, and finds its executable, its socket and whatever else Options names
// at the same paths everywhere, in Dir. All else that it has open by name has to be there on the other machine as well; CRIU checks that.
//
// What leads out of the process cannot come along: connected sockets to others are broken after a Restore (unix: end of file; TCP: closed), and
// it is up to the program to connect anew. Its standard output and error lead to Options.Output on every machine.
package native
