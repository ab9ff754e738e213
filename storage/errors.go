package storage

import "errors"

// Errors of the store.
var (
	// ErrNotFound means that the store has no volume of that name.
	ErrNotFound = errors.New("no such volume")
	// ErrExists means that a volume of that name is there already, with another role, epoch or size.
	ErrExists = errors.New("volume exists already")
	// ErrNoSpace means that the file system of the store is too small for what was asked; the message has the figures.
	ErrNoSpace = errors.New("not enough disk space")
	// ErrDevice means that a block device cannot be a volume's: there is none, it is too small, or in use.
	ErrDevice = errors.New("block device cannot be used")
	// ErrNotBlank means that a block device holds something that would be lost.
	ErrNotBlank = errors.New("block device is not empty")
	// ErrLocked means that another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrClosed means that the store or the volume was closed or deleted meanwhile.
	ErrClosed = errors.New("volume is closed")
)

// Errors of the verbs on a volume.
var (
	// ErrStale means that the verb belongs to an epoch that is over: older than one seen, or aborted.
	ErrStale = errors.New("epoch is stale")
	// ErrRole means that the volume's role does not allow the verb.
	ErrRole = errors.New("volume has the wrong role")
	// ErrNoSession means that a verb needs a replication session and none runs: call Replicate first.
	ErrNoSession = errors.New("no replication session")
	// ErrIncomplete means that the replica lacks the completion marker of the epoch.
	ErrIncomplete = errors.New("replica is not complete")
	// ErrBusy means that clients use the volume while the verb needs it for itself.
	ErrBusy = errors.New("volume is in use")
	// ErrRefused means that the other end refused the replication session for good; retrying would not help.
	ErrRefused = errors.New("replication refused by the other end")
	// ErrLink means that the connection to the other end is broken or stalls.
	ErrLink = errors.New("replication link is down")
)
