package storage

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestAVolumeGrowsAndKeepsWhatItHas(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const small, large = 1 << 20, 3<<20 + 4096
	v, err := s.Create(t.Context(), Spec{Name: "shop.data", Size: small}, 5)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("godwit!\n"), small/8)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, content, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "grow-*") // the path of a socket is short by law
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(v.Import(t.Context(), image, nil), v.Serve(filepath.Join(dir, "s"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(t.Context(), "shop.data", small-4096); err == nil {
		t.Error("it shrinks")
	}
	for range 2 {
		if err := s.Grow(t.Context(), "shop.data", large); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Grow(t.Context(), "shop.data", 1<<60); !errors.Is(err, ErrNoSpace) {
		t.Errorf("more than there is room for: %v", err)
	}
	check := func() {
		t.Helper()
		v, err := s.Volume("shop.data")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, large)
		if err := v.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got[:small], content) || !bytes.Equal(got[small:], make([]byte, large-small)) {
			t.Errorf("it holds something else: %v", err)
		}
		if found, err := v.Scrub(t.Context(), nil); err != nil || len(found.Bad) > 0 || found.Unverified > 0 || found.Checked != large {
			t.Errorf("its checksums: %+v, %v", found, err)
		}
		if c, err := net.Dial("unix", filepath.Join(dir, "s")); err != nil {
			t.Errorf("it is not served: %v", err)
		} else {
			_ = c.Close()
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(s.dir, Options{}); err != nil {
		t.Fatal(err)
	}
	check()
}

// A process that dies anywhere in between leaves one that is finished when it is opened.
func TestGrowthThatWasInterruptedIsFinished(t *testing.T) {
	for name, interrupted := range map[string]func(t *testing.T, dir string){
		"before the disk": func(*testing.T, string) {},
		"after the disk": func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, "base.raw"), 2<<20); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, Options{})
			if err != nil {
				t.Fatal(err)
			}
			v, err := s.Create(t.Context(), Spec{Name: "a", Size: 1 << 20}, 5)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(v.intend(2<<20), s.Close()); err != nil {
				t.Fatal(err)
			}
			interrupted(t, filepath.Join(dir, "a"))
			if s, err = Open(dir, Options{}); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			v, err = s.Volume("a")
			if err != nil || v.Size() != 2<<20 || v.metadata().Growing != 0 {
				t.Fatalf("it is %+v, %v", v.metadata(), err)
			}
		})
	}
}

func TestAReplicatedVolumeDoesNotGrow(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.CreateReplica(t.Context(), Spec{Name: "r", Size: 1 << 20}, 5); err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(t.Context(), "r", 2<<20); !errors.Is(err, ErrRole) {
		t.Errorf("a replica grows: %v", err)
	}
	if _, err := s.Create(t.Context(), Spec{Name: "p", Size: 1 << 20}, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Protect(t.Context(), GroupSpec{Name: "g", Volumes: []string{"p"}, Epoch: 5, Mode: ModeLocal}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(t.Context(), "p", 2<<20); !errors.Is(err, ErrBusy) {
		t.Errorf("a volume of a group grows: %v", err)
	}
	if err := errors.Join(s.Unprotect(t.Context(), "g", 5), s.Grow(t.Context(), "p", 2<<20)); err != nil {
		t.Error(err)
	}
}
