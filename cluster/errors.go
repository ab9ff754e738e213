package cluster

import (
	"errors"
	"fmt"
)

// Errors of the store. Match them with errors.Is.
var (
	// ErrNotFound: there is no object under that key.
	ErrNotFound = errors.New("not found")
	// ErrConflict: an object is not at the revision that the caller expected,
	// and nothing was written. Read again and decide again.
	ErrConflict = errors.New("conflict")
	// ErrInUse: another process has the store's directory open.
	ErrInUse = errors.New("store is in use by another process")
	// ErrInvalid: the call itself makes no sense (an empty key, two operations on one key).
	ErrInvalid = errors.New("invalid store operation")
)

// Errors of join tokens. Their text is for the person who is joining a machine.
var (
	ErrTokenUnknown = errors.New("join token is not known to this cluster; " +
		"check that it was pasted whole and belongs to this cluster, or make a new one on a controller")
	ErrTokenUsed = errors.New("join token was used already (each works once); " +
		"make a new one on a controller")
	ErrTokenExpired = errors.New("join token has expired; make a new one on a controller and use it in time")
)

// ConflictError says which compare failed. It matches ErrConflict.
type ConflictError struct {
	Key      string
	Expected int64 // as the caller gave it; Absent if the key should not have existed
	Actual   int64 // modification revision found; Absent if the key does not exist
}

func (e *ConflictError) Error() string {
	switch {
	case e.Expected == Absent:
		return fmt.Sprintf("conflict: %s exists already (revision %d)", e.Key, e.Actual)
	case e.Actual == Absent:
		return fmt.Sprintf("conflict: %s is gone (expected revision %d)", e.Key, e.Expected)
	default:
		return fmt.Sprintf("conflict: %s is at revision %d, not %d: it was changed meanwhile", e.Key, e.Actual, e.Expected)
	}
}

// Is reports that the error is an ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }
