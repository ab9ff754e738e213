// Package journal keeps the replicas of a group of volumes at the end of an epoch, the same for all of them, whatever is killed
// at any instant.
//
// An epoch is written to the journal ([Journal.Put]) while it comes in and is durable with one sync of one file
// ([Journal.Commit]): that is the group's commit record. Afterwards it is applied to the disks ([Journal.Apply]); a crash in the
// middle of that is made good by [Open], which applies again. An epoch without its commit record never was.
//
// A journal that has no consistent point yet (a first copy) writes straight to the disks, and is incomplete until its first
// commit.
//
// Named cuts keep the point that was the last when they were made: what is overwritten later is saved first. They are read in
// place ([Journal.OpenCut]) and restored as an epoch of their own.
//
// On disk, in the folder of the group:
//
//	state          JSON: lineage, how far the disks are durable, the cuts; replaced in one step
//	log-SEQ        records; the checksum of each is seeded with that of the one before, so that neither stale records of a
//	               file used again nor forged ones inside a guest's data are taken for valid
//	cut-ID-VOL     content that was overwritten after the cut, at its place in the volume (sparse)
//	cut-ID-VOL.map one bit for each block saved there
//
// What may not enter: connections, frames, roles, and who may write.
package journal
