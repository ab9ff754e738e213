package storage

import (
	"errors"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/nbd"
)

// hear takes what the disk has to tell. It is called with blocks held, so that it may wait for nothing of the volume's.
func (v *Volume) hear(e disk.Event) {
	text := e.String()
	v.faults.note(e)
	switch e.Kind {
	case disk.EventUnverified:
		v.log.Info("a disk reports", "event", text)
		return
	case disk.EventRepaired:
		v.log.Warn("a disk reports", "event", text)
		v.fault.Store(&text)
	default:
		v.log.Error("a disk reports", "event", text)
		v.fault.Store(&text)
	}
}

// answer is a disk's error as the NBD server wants it: a disk that somebody newer has taken is not answered for.
func answer(err error) error {
	if errors.Is(err, disk.ErrFenced) {
		return nbd.ErrHangUp
	}
	return err
}
