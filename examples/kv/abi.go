//go:build wasip1

package main

import "unsafe"

// What the machine offers; package server/process says what each does.

//go:wasmimport godwit reply
func hostReply(at unsafe.Pointer, length uint32)

// message is where the machine puts the next message.
var message []byte

// alloc makes room for a message.
//
//go:wasmexport godwit_alloc
func alloc(length uint32) uint32 {
	if int(length) > cap(message) || message == nil {
		message = make([]byte, max(length, 4096))
	}
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(message))))
}

// handle is called once for each message.
//
//go:wasmexport godwit_handle
func handle(_, length uint32) {
	answer := words.handle(message[:length])
	hostReply(unsafe.Pointer(unsafe.SliceData(answer)), uint32(len(answer)))
}
