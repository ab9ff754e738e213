package storage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const sharedSize = 4 << 20

// sharing are hosts that reach one disk.
type sharing struct {
	t    *testing.T
	spec ExternalSpec
	dirs map[string]string
	up   map[string]*Externals
}

func newSharing(t *testing.T) *sharing {
	t.Helper()
	s := &sharing{t: t, spec: ExternalSpec{Name: "shop.data", Path: filepath.Join(t.TempDir(), "disk.raw")}, dirs: map[string]string{}, up: map[string]*Externals{}}
	if err := os.WriteFile(s.spec.Path, make([]byte, sharedSize), 0o600); err != nil {
		t.Fatal(err)
	}
	s.host("a")
	s.host("b")
	return s
}

// host starts a host, or starts it again.
func (s *sharing) host(name string) *Externals {
	s.t.Helper()
	if s.dirs[name] == "" {
		s.dirs[name] = s.t.TempDir()
	}
	if old := s.up[name]; old != nil {
		if err := old.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	e, err := OpenExternals(s.dirs[name], Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = e.Close() })
	s.up[name] = e
	return e
}

func (s *sharing) use(host string, epoch uint64) *External {
	s.t.Helper()
	x, err := s.up[host].Use(s.t.Context(), s.spec, epoch)
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

func (s *sharing) await(host string, epoch uint64) *External {
	s.t.Helper()
	x, err := s.up[host].Await(s.t.Context(), s.spec, epoch)
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

func written(t *testing.T, x *External, off int64, p []byte) {
	t.Helper()
	if err := (externalClient{x}).WriteAt(t.Context(), p, off, false); err != nil {
		t.Fatal(err)
	}
}

func reads(t *testing.T, x *External, off int64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := (externalClient{x}).ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes at %d are not what was written: %v", len(want), off, err)
	}
}

// parked says that a write waits until nobody waits for it any more.
func parked(t *testing.T, x *External) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := (externalClient{x}).WriteAt(ctx, []byte("late"), 0, false); err == nil {
		t.Error("a write was accepted")
	}
}

func TestAnExternalDiskChangesItsUserOnceThatIsFenced(t *testing.T) {
	s := newSharing(t)
	a := s.use("a", 5)
	first, second := bytes.Repeat([]byte("one "), 5000), bytes.Repeat([]byte("two!"), 300)
	written(t, a, 512, first)
	if err := a.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := s.await("b", 9)
	reads(t, b, 512, first)
	reads(t, b, sharedSize-700, make([]byte, 700))
	if err := (externalClient{b}).WriteAt(t.Context(), first, 0, false); !errors.Is(err, syscall.EPERM) {
		t.Errorf("who waits has written: %v", err)
	}
	if _, err := s.up["b"].Use(t.Context(), ExternalSpec{"other", s.spec.Path}, 9); !errors.Is(err, ErrTaken) {
		t.Errorf("a second user: %v", err)
	}
	if err := b.Promote(t.Context(), 9); !errors.Is(err, ErrTaken) {
		t.Errorf("promoted while somebody else writes: %v", err)
	}
	written(t, a, 40000, second)
	if err := errors.Join(a.Shut(t.Context(), 9), a.Fence(t.Context(), 9), a.Fence(t.Context(), 9)); err != nil {
		t.Fatal(err)
	}
	parked(t, a)
	if st := a.Status(); st.Role != RoleFenced || !st.Complete || st.Dirty != 0 || st.Mode != ModeExternal {
		t.Errorf("fenced, it is %+v", st)
	}
	if err := errors.Join(b.Promote(t.Context(), 9), b.Promote(t.Context(), 9)); err != nil {
		t.Fatal(err)
	}
	reads(t, b, 512, first)
	reads(t, b, 40000, second)
	written(t, b, 0, second)
	if err := (externalClient{b}).Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.up["a"].Forget(s.spec.Name, 9); err != nil {
		t.Fatal(err)
	}
	if _, err := s.host("a").Disk(s.spec.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("forgotten: %v", err)
	}
	if got, err := os.ReadFile(s.spec.Path); err != nil || !bytes.Equal(got[:len(second)], second) {
		t.Errorf("the content is not there any more: %v", err)
	}
	if c := b.Counters(); c.Writes.Requests != 2 || c.Writes.Errors != 1 {
		t.Errorf("counted: %+v", c.Writes)
	}
}

func TestAnExternalDiskComesBackFromAnAbortedAttempt(t *testing.T) {
	s := newSharing(t)
	a := s.use("a", 5)
	s.await("b", 9)
	if err := a.Fence(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- externalClient{a}.WriteAt(context.Background(), []byte("held"), 0, true) }()
	if err := errors.Join(s.up["b"].Forget(s.spec.Name, 9), a.Unfence(t.Context(), 9), a.Unfence(t.Context(), 9)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("what was held: %v", err)
	}
	reads(t, a, 0, []byte("held"))
	if st := a.Status(); st.Role != RolePrimary || st.Epoch != 5 {
		t.Errorf("it is %+v", st)
	}
	for what, err := range map[string]error{
		"a late fence":     a.Fence(t.Context(), 9),
		"an older one":     a.Fence(t.Context(), 7),
		"a late promotion": a.Promote(t.Context(), 3),
		"a late end":       s.up["a"].Forget(s.spec.Name, 9),
		"an older end":     s.up["a"].Forget(s.spec.Name, 4),
	} {
		if !errors.Is(err, ErrStale) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.up["a"].Use(t.Context(), s.spec, 4); !errors.Is(err, ErrStale) {
		t.Errorf("an older start: %v", err)
	}
	s.await("b", 11)
	if err := a.Fence(t.Context(), 11); err != nil {
		t.Errorf("a newer attempt: %v", err)
	}
}

func TestAHostThatIsStartedAgainKeepsTheFenceOfAnExternalDisk(t *testing.T) {
	s := newSharing(t)
	a := s.use("a", 5)
	written(t, a, 0, []byte("before"))
	s.await("b", 9)
	if err := a.Shut(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	s.host("a")
	a, err := s.up["a"].Disk(s.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	parked(t, a)
	if err := a.Fence(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	s.host("b")
	b, err := s.up["b"].Disk(s.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Promote(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	s.host("b")
	if b, err = s.up["b"].Disk(s.spec.Name); err != nil {
		t.Fatal(err)
	}
	written(t, b, 0, []byte("after!"))
	s.host("a")
	if a, err = s.up["a"].Disk(s.spec.Name); err != nil {
		t.Fatal(err)
	}
	parked(t, a)
	reads(t, b, 0, []byte("after!"))
}

func TestAHostThatComesBackToADiskThatIsInUseElsewhereWaits(t *testing.T) {
	s := newSharing(t)
	s.use("a", 5)
	if err := s.up["a"].Close(); err != nil { // as if it had died
		t.Fatal(err)
	}
	s.up["a"] = nil
	s.use("b", 8) // by an operator's word
	s.host("a")
	a, err := s.up["a"].Disk(s.spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	parked(t, a)
	if st := a.Status(); !strings.Contains(st.Err, "in use by another host") {
		t.Errorf("it says %q", st.Err)
	}
	if err := s.up["b"].Forget(s.spec.Name, 9); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := (externalClient{a}).WriteAt(ctx, []byte("again"), 0, false); err != nil {
		t.Errorf("it did not come back: %v", err)
	}
}

func TestAnExternalDiskIsRefusedThatIsNotTheSameEverywhere(t *testing.T) {
	s := newSharing(t)
	if _, err := s.up["b"].Await(t.Context(), s.spec, 9); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "is not in use") {
		t.Errorf("nobody uses it: %v", err)
	}
	s.use("a", 5)
	missing := ExternalSpec{"shop.data", filepath.Join(t.TempDir(), "none")}
	if _, err := s.up["b"].Await(t.Context(), missing, 9); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("it is not there: %v", err)
	}
	odd := filepath.Join(t.TempDir(), "odd")
	if err := os.WriteFile(odd, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for why, spec := range map[string]ExternalSpec{
		"whole sectors": {"x", odd}, "not absolute": {"x", "disk"}, "volume name": {"a/b", s.spec.Path}, "neither a file": {"x", "/dev/null"},
		"not " + missing.Path: {"shop.data", missing.Path},
	} {
		if _, err := s.up["a"].Use(t.Context(), spec, 9); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want %q", err, why)
		}
	}
}

func TestARecordOfAnExternalDiskThatCannotBeReadStopsTheHost(t *testing.T) {
	for what, text := range map[string]string{
		"no JSON": "{", "a newer format": `{"format":2,"name":"x","role":"primary"}`, "another's": `{"format":1,"name":"y","role":"primary"}`, "no role": `{"format":1,"name":"x"}`,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenExternals(dir, Options{}); err == nil || !strings.Contains(err.Error(), "read external disk") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
