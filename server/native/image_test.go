package native

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// imageDir makes a directory that looks like an image.
func imageDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), bytes.Repeat([]byte{1, 0}, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeManifest(dir, manifest{PID: firstPID, Sockets: []uint64{7}, Output: 9}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What is sent arrives; what is cut off anywhere, or longer than allowed, is refused.
func TestAnImageArrivesWholeOrNotAtAll(t *testing.T) {
	from := imageDir(t)
	var sent bytes.Buffer
	if err := Send(&sent, from); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := Receive(bytes.NewReader(sent.Bytes()), to, 1<<20); err != nil {
		t.Fatal(err)
	}
	m, err := readManifest(to)
	if err != nil || m.PID != firstPID || len(m.Sockets) != 1 || m.Output != 9 {
		t.Errorf("%+v, %v", m, err)
	}
	want, _ := os.ReadFile(filepath.Join(from, "pages-1.img"))
	if got, _ := os.ReadFile(filepath.Join(to, "pages-1.img")); !bytes.Equal(got, want) {
		t.Error("other pages")
	}
	for cut := 0; cut < 10752; cut += 256 { // up to where the manifest begins
		if err := Receive(bytes.NewReader(sent.Bytes()[:cut]), t.TempDir(), 1<<20); !errors.Is(err, ErrImage) {
			t.Fatalf("cut off after %d bytes: %v", cut, err)
		}
	}
	if err := Receive(bytes.NewReader(sent.Bytes()), t.TempDir(), 5000); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
}

// An image without its manifest is none.
func TestADirectoryWithoutManifestIsNoImage(t *testing.T) {
	if _, err := readManifest(t.TempDir()); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
	if err := Send(&bytes.Buffer{}, t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Whatever comes, nothing is written outside of the directory.
func FuzzReceive(f *testing.F) {
	var sent bytes.Buffer
	if err := Send(&sent, imageDir(f)); err != nil {
		f.Fatal(err)
	}
	f.Add(sent.Bytes())
	f.Add(bytes.Replace(sent.Bytes(), []byte("pages-1.img"), []byte("../ages.img"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		outer := t.TempDir()
		dir := filepath.Join(outer, "image")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Receive(bytes.NewReader(b), dir, 1<<20); err == nil {
			_, _ = readManifest(dir)
		}
		if all, err := os.ReadDir(outer); err != nil || len(all) != 1 {
			t.Errorf("%v, %v", all, err)
		}
	})
}

// The first error in criu's log is the cause; what it tries in vain and does without is not.
func TestFailureSaysWhy(t *testing.T) {
	log := []byte("(00.1) Error (criu/util.c:1): rlimit: no\n(00.2) hm\n(00.3) Error (criu/files.c:2): a device\n(00.4) Error (criu/cr.c:3): failed\n")
	if got := failure("dump", errors.New("exit status 1"), log).Error(); got != "criu dump: exit status 1: (criu/files.c:2): a device; (criu/cr.c:3): failed" {
		t.Error(got)
	}
	if got := failure("dump", errors.New("x"), []byte("a\nb\n")).Error(); got != "criu dump: x: b" {
		t.Error(got)
	}
}

func TestLinesKeepsTheLast(t *testing.T) {
	var said []string
	l := NewLines(func(line string) { said = append(said, line) })
	for _, part := range []string{"a\nb", "c\n", "\n1\n2\n3\n4\nrest"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(said) != 7 || said[1] != "bc" || len(l.Last()) != keptLast || l.Last()[4] != "4" {
		t.Errorf("%q, %q", said, l.Last())
	}
	_, _ = l.Write(bytes.Repeat([]byte("x"), 3*maxLine))
	if len(said) != 10 || len(said[8]) != maxLine {
		t.Errorf("%d lines", len(said))
	}
}

// Who is not root, or has no criu, is told what to do.
func TestFindSaysWhatIsMissing(t *testing.T) {
	_, err := Find(t.Context(), func(string) string { return filepath.Join(t.TempDir(), "none") })
	want := ErrMissing
	if os.Geteuid() != 0 {
		want = ErrRoot
	}
	if !errors.Is(err, want) {
		t.Error(err)
	}
	if err := Shepherd(); err == nil {
		t.Error("a shepherd that is not process 1")
	}
}
