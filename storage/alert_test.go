package storage

import (
	"errors"
	"syscall"
	"testing"

	"github.com/godwit-project/godwit/storage/disk"
)

func TestTheFaultsOfADiskAreRemembered(t *testing.T) {
	s := openStore(t, t.TempDir())
	v, err := s.Create(t.Context(), Spec{Name: "archive", Size: 1 << 20}, 5)
	if err != nil {
		t.Fatal(err)
	}
	if all := v.Alerts(); len(all) != 0 {
		t.Errorf("of a good disk: %v", all)
	}
	for range 2 {
		v.hear(disk.Event{Kind: disk.EventReadError, Path: "/d", Length: 4096, Err: syscall.EIO})
	}
	v.hear(disk.Event{Kind: disk.EventUnverified, Path: "/d"})
	v.hear(disk.Event{Kind: disk.EventNoSpace, Path: "/d", Err: syscall.ENOSPC})
	v.hear(disk.Event{Kind: disk.EventFailed, Path: "/d", Err: errors.New("it was put right since")})
	all := v.Alerts()
	if len(all) != 2 || all[0].Kind != FaultNoSpace || all[1].Kind != FaultRead || all[1].Count != 2 {
		t.Errorf("they are %+v", all)
	}
}
