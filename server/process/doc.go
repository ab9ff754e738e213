// Package process runs a WebAssembly module as a process that can be moved, copied and repeated without a line of code of its own for that:
// between two messages all its state is linear memory and mutable globals.
//
// The caller's duties, in order: NewEngine; Load a module; Start a process of it; Call it with one message after another; Close the process,
// then the engine. Snapshot, Changes, Restore and Apply take and put the state between two calls. Whoever wants the same state in
// two places gives both the same Inputs in the same order.
//
// # What a module looks like
//
// It is a WASI reactor (preview 1). It exports its memory and
//
//	_initialize()                       optional; run once, when the process starts with a fresh state
//	godwit_alloc(length i32) i32        returns the place where the next message is put, with at least that much room
//	godwit_handle(at i32, length i32)   handles the message; what it returns from, it has done
//
// and may import from "godwit"
//
//	kind() i32                          of the message: 1 send, 2 request, 3 notify
//	from(at i32, room i32) i32          copies the sender's name, up to so much; returns its length, 0 for one without a name
//	reply(at i32, length i32)           answers a request; a second answer replaces the first, none is an empty one
//	send(name i32, length i32, at i32, length i32)   sends a message when the call has returned
//	notify(name i32, length i32)        notifies an endpoint when the call has returned
//	log(at i32, length i32)             writes a line for people, as standard output and error do
//
// and all of WASI, of which there are a clock, random numbers, sleep (which moves the clock and takes no time), standard output and error.
// There are no files, no network, no arguments and no environment. Clock and random numbers are those that came with the message.
// A program that fails (a trap, a panic, an exit) or takes too long is put back to the state before the message.
//
// A module that has more state than memory and globals is refused: one that changes tables while it runs, drops
// segments, imports memories or globals, or has mutable globals that are no numbers.
//
// In Go (1.24 or newer), built with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared:
//
//	//go:wasmimport godwit reply
//	func reply(at unsafe.Pointer, length uint32)
//
//	var message []byte
//
//	//go:wasmexport godwit_alloc
//	func alloc(length uint32) uint32 {
//		message = make([]byte, length+1)
//		return uint32(uintptr(unsafe.Pointer(&message[0])))
//	}
//
//	//go:wasmexport godwit_handle
//	func handle(_, length uint32) {
//		answer := work(message[:length])
//		reply(unsafe.Pointer(unsafe.SliceData(answer)), uint32(len(answer)))
//	}
//
// In C, built with clang --target=wasm32-wasi -mexec-model=reactor:
//
//	__attribute__((import_module("godwit"), import_name("reply"))) void reply(const void *, uint32_t);
//	static char message[65536];
//	__attribute__((export_name("godwit_alloc"))) void *alloc(uint32_t length) { return length <= sizeof message ? message : NULL; }
//	__attribute__((export_name("godwit_handle"))) void handle(char *at, uint32_t length) { … reply(answer, n); }
//
// Complete programs are in examples/kv and examples/counter-c.
package process
