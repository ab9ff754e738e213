// Package wire is the framing of the DVS: bytes in, values out. It is documented here so that other languages can speak it.
//
// # Frames
//
// A frame is a 32-bit length, then that many bytes: one byte of kind, and the body. All numbers are little-endian and of fixed size; a
// string is a 16-bit length and UTF-8 bytes; a payload is what is left of the body. The same frames pass over the unix
// socket of a node (a byte stream), through the rings between two processes, and, in a Packet, between nodes.
//
// # A session, over the unix socket of a node
//
// The program sends Hello; the node answers Welcome, or Answer with call 0 and a code, and closes. With the flag Direct, Welcome
// carries two descriptors (SCM_RIGHTS): the session's page and its bell. A program that does not set the flag never sees
// a ring, and everything goes through the node.
//
//	Hello      1  u16 version (1), u8 flags (1 direct), u64 caller, str container, str program
//	Welcome    2  u16 version, u32 longest payload, str node
//	Bind       3  u32 call, u8 flags (1 standby, 2 movable, 4 replicated, 8 again, 16 held), str name; if replicated or again: u64 epoch, u64 line; if again: u64 serial
//	Unbind     4  u32 call, u64 endpoint
//	Answer     5  u32 call, u16 code, u64 epoch, u64 serial, text
//	Watch      6  str name: tell me the endpoint's routes, now and later; it goes the way of requests, before the first for that name
//	Route      7  u64 endpoint, u64 epoch, u64 serial, u64 line, u8 state (0 unbound, 1 active, 2 moving, 3 dead, 4 cut), u32 channel (0: the node)
//	Introduce  8  u32 channel, u32 channel at the peer, u8 side, u64 the peer's caller; with three descriptors: rings, the peer's page, its bell
//	Revoke     9  u32 channel; either way
//	Order     10  u64 endpoint, u64 epoch, u8 order (see Orders), u64 epoch, u64 serial: the endpoint's version from now on
//	Done      11  u64 endpoint, u64 epoch, u8 order, u16 code, u64 epoch, u64 serial, text
//	Chunk     12  u64 endpoint, u64 epoch, u64 offset, u64 total, bytes: the state of a moving endpoint
//	Gone      13  u64 caller: it has ended, forget its replies; from a program, of a caller of its own
//	Caller    14  u64 endpoint, u64 caller: the requests of this caller are mine; endpoint 0 is none
//	Piece     15  u64 endpoint, u64 epoch, u64 number (from 1), u8 flags (1 first of an attempt), bytes: of a state that moves in pieces
//	Stream    21  u32 channel, u8 side, 64 bytes of secret; with one descriptor: a TCP connection to a peer on another machine
//	Credit    20  u64 endpoint, u64 epoch, u64 number of the newest piece applied, u16 code, text
//
// An endpoint's number is the first 8 bytes of SHA-256 over container, a zero byte and name, read as a little-endian
// number, with the lowest bit set.
//
// # Messages
//
//	Request   16  u8 kind (1 send, 2 sendrec, 3 notify, 4 copy read, 5 copy write), u8 flags (1 do not wait, 2 sent before), u64 endpoint, u64 caller, u64 sequence, u64 line, str from, payload
//	Reply     17  u64 endpoint, u64 caller, u64 sequence, u16 code, u64 epoch, u64 serial, payload
//	Probe     18  u64 endpoint, u64 caller, u64 sequence
//	Cancel    19  u64 endpoint, u64 caller, u64 sequence
//
// A caller is 64 random bits. It has one request outstanding, sends it again whenever a newer Route says active, and
// numbers the next one higher; if the Route has another line than at first, it gives up, because the state that it asked is lost. So it gets each answer once, and no request is executed twice.
//
// # A stream
//
// Two programs on two machines that talk much get a TCP connection of their own, which the asking node opens by the 16 bytes of the token. The same
// frames pass there as through a ring. If the link between the nodes is secure, frames are sealed: records of a u32 length and that many bytes, of
// at most 64 KiB, AES-256-GCM; side 0 says with the first half of the secret, side 1 with the second; the nonce is the number of the record (u64
// and four zero bytes). When it breaks, the caller asks again through the node.
//
// A client in Python is in testdata/python.
//
// # Between nodes
//
//	LinkHello 32  u16 version, u64 incarnation, u64 the other's incarnation as known (or 0), u64 packets received of that, str node
//	LinkAck   33  u64 packets received
//	LinkStart 34  u64 number of the next packet; once on each connection, before any
//	Forward   35  str container, then a message's frame; a packet
//	Announce  36  str container, str name, u64 epoch, u64 serial, u64 line, u8 state, u8 flags (1 replicated); a packet
//	State     37  str container, then a frame of Chunk, Order, Done, Piece or Credit; a packet
//	Meet      39  u64 number, u64 endpoint, str container, 16 bytes of token, 64 bytes of secret: a stream with the owner's program; a packet
//	Met       40  u64 number, str address at which the token opens it, or empty; a packet
//	Pressed   38  u32 bytes, then as many bytes of frames of this list, compressed together (a block of S2)
//
// Packets have numbers that nobody sends: they count from LinkStart on. What has not been acknowledged is sent again after a reconnect.
package wire
