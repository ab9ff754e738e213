// Command peers measures the DVS beside those who do the nearest thing: gRPC, NATS request/reply, net/rpc, and bare sockets; in one
// run on one machine, taking turns, so that the ratios hold where the times do not. It prints tables in Markdown.
//
//	go run -C bench/peers . [-quick]
//
// It is a module of its own, so that whoever uses Godwit gets none of them. Servers, nodes and clients are processes of their own: this program, started again.
package main
