// Package wan carries streams of bytes between the agents of two sites: mutually authenticated, one connection per
// stream, each with a class that says how urgent it is, and every byte counted.
//
// A stream opens with one exchange, after the TLS handshake and before any payload:
//
//	dialler  → listener   uint32 length (big endian, at most 4096), JSON of Hello
//	listener → dialler    uint32 length, JSON of answer {error, unixNano}
//
// An answer with an error ends the stream. From then on the connection is the stream's alone, in both directions; a
// closed write side is passed on. The answer carries the listener's clock, so that the dialler learns the offset between
// the two clocks, to within half of the round trip (Cristian's algorithm).
//
// One connection per class and pair of agents, never a multiplexer: a byte that has been written into a socket cannot be
// overtaken, so a late and urgent byte must not stand behind early bulk. What may not enter this room: what the
// streams mean, and who may open them (the caller's accept function decides).
package wan
