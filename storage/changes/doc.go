// Package changes knows what the other end of a replicated group of volumes lacks, and cuts it into epochs: sets of blocks that
// were written between two instants, the same for all volumes of the group.
//
// It is a pure core: no I/O, no goroutine, no lock, no clock. The caller, who guards it with one mutex for the whole group, obeys
// this order:
//
//  1. A writer takes its range of the volume, calls [Tracker.Mark], copies aside what [Tracker.Owed] names and says so with
//     [Tracker.Aside], writes the volume, lets go of the range. Then it may acknowledge.
//  2. [Tracker.Cut] ends the current epoch, for all volumes at once; it needs the one before to be handed over entirely.
//  3. The sender takes a range of the volume, asks [Tracker.Next] for what the cut epoch still owes there, reads it from where
//     [Tracker.IsAside] says, puts it on the stream, calls [Tracker.Handed], lets go of the range.
//  4. [Tracker.Committed] when the other end has an epoch on stable storage; [Tracker.Broken] when the link is lost.
//
// What may not enter: files, frames, and who waits for what.
package changes
