// Package dvs is the client library of the DVS: a program binds to an endpoint of a container, and any other program of that container
// talks to it by name, wherever both are, before, during and after either of them moves.
//
//	s, err := dvs.Connect(ctx, "/run/godwit/dvs.sock", dvs.Options{Container: "shop"})
//	reply, err := s.SendRec(ctx, "stock", []byte("how many?"))
//
// A server:
//
//	e, err := s.Bind(ctx, "stock", dvs.BindOptions{})
//	for {
//		r, err := e.ReceiveRequest(ctx)
//		…
//		err = e.Reply(r, answer)
//	}
//
// The caller's duties:
//
//   - A Session, and each Endpoint, makes one call at a time (Send, SendRec, Copy); others wait their turn. For more at once take
//     a Client for each.
//   - Every call ends by its context at the latest. NoWait makes a call that never waits for its peer.
//   - An error says what is known of the request: see the groups in errors.go. Only ErrOutcomeUnknown and a deadline leave open whether
//     it was executed.
//   - A session ends with its node, unless Options.Reconnect says how long to wait for it.
//   - An endpoint that may move gives Snapshot and Restore. Snapshot is called while no request is in work and the program waits in
//     Receive or ReceiveRequest; outside of receive and reply its state must not change.
//   - A registered buffer is read and written by others only while its owner is blocked in a call of this package.
//
// Two processes on one machine share memory once their node has introduced them, and two on different machines that talk much get a connection of
// their own; the library is safe against whatever a
// peer writes there, but a peer of the same container can make it miss a wake-up.
package dvs
