// Package api holds what Godwit says to the outside: the protobuf definitions (proto/), the generated Connect code
// (godwit/v1), the manifest format that users write (manifest.go), and the client that commands use (client.go). It
// imports nothing of ours, so that another program can use it alone.
package api
