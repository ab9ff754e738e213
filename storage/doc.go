// Package storage holds the volumes of one host: plain raw files that are served to virtual servers over NBD on unix
// sockets, and that are replicated to another site while a migration runs.
//
// It knows nothing of servers, networks, controllers or of who drives it, and imports nothing of the project but its own
// rooms: storage/nbd (the NBD server) and storage/wire (the frames of the replication stream, whose layout is described
// there). Connections to other sites are handed in by the caller, who has authenticated them.
//
// The duties of a caller who moves a volume from A to B under the epoch M of an attempt, in order:
//
//  1. B: [Store.CreateReplica] at M, [Volume.Serve] for the waiting server.
//  2. A: [Volume.Replicate] at M; its dial leads to B's [Volume.ServeReplica].
//  3. A: [Volume.Converged], then [Volume.Synchronize].
//  4. A: stop the server, then [Volume.Fence]. Its success means: B holds every acknowledged write, durably, and A
//     accepts nothing more.
//  5. Commit M in the shared store. Only then B: [Volume.Promote]; later A: [Store.Delete] at M and B: [Volume.Forget].
//  6. Instead of 5, to abort: A: [Volume.Unfence] at M, B: [Store.Delete] at M. From then on A refuses every verb of M.
//
// Every verb is idempotent, may be sent again after a restart of the process, and is refused with [ErrStale] for an epoch
// older than one seen or aborted.
//
// A write is acknowledged when it is at least in the page cache of the host, so killing this process loses nothing. FLUSH
// and FUA mean fdatasync here and, in sync mode, stable storage at both ends for every single write.
package storage
