package storage

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestAVolumeIsBoundToWhoeverUsesIt(t *testing.T) {
	s := openStore(t, t.TempDir())
	v, err := s.Create(t.Context(), Spec{Name: "archive", Size: 1 << 20}, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Bind(9); err != nil {
		t.Fatal(err)
	}
	if err := v.Bind(9); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := v.Bind(7); !errors.Is(err, ErrStale) {
		t.Errorf("an earlier user: %v", err)
	}
	if err := s.Delete(t.Context(), "archive", 8); !errors.Is(err, ErrStale) {
		t.Errorf("a deletion that an earlier user had asked for: %v", err)
	}
	if v.Status().Epoch != 9 {
		t.Errorf("it is at epoch %d", v.Status().Epoch)
	}
	r, err := s.CreateReplica(t.Context(), Spec{Name: "copy", Size: 1 << 20}, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Bind(9); !errors.Is(err, ErrRole) {
		t.Errorf("a replica: %v", err)
	}
}

func TestAnExportThatWasEndedStaysSo(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	v, err := s.Create(t.Context(), Spec{Name: "archive", Size: 1 << 20}, 5)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	if err := errors.Join(v.Serve(socket), v.Unserve(), v.Unserve(), s.Close()); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	if v, err = s.Volume("archive"); err != nil || v.Status().Socket != "" {
		t.Errorf("it is served on %q again: %v", v.Status().Socket, err)
	}
	if c, err := net.Dial("unix", socket); err == nil {
		_ = c.Close()
		t.Error("somebody listens")
	}
}
