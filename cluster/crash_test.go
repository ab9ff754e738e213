package cluster

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// crashDir makes the test binary a process that writes to a store until it is killed.
const crashDir = "GODWIT_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		return err
	}
	if _, err := s.Lead(ctx, "mms", "west"); err != nil {
		return err
	}
	for {
		e, err := s.NextEpoch(ctx)
		if err != nil {
			return err
		}
		fmt.Println(e)
	}
}

func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for range 2 {
		last = killAfter(t, dir, last, 20)
	}
	started := time.Now()
	s := open(t, dir)
	opened := time.Since(started)
	e, err := s.NextEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if e <= last {
		t.Fatalf("epoch %d after %d had been given out", e, last)
	}
	lead(t, s, "west") // its lease would last for seconds yet
	t.Logf("last epoch before the kill %d, first after it %d; opened in %v, leading after %v", last, e, opened, time.Since(started))
}

// killAfter starts a writer, kills it after n epochs and returns the last one it printed.
func killAfter(t *testing.T, dir string, floor uint64, n int) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last, lines := floor, 0
	for sc := bufio.NewScanner(out); sc.Scan(); lines++ {
		var e uint64
		if _, err := fmt.Sscan(sc.Text(), &e); err != nil || e <= last {
			t.Errorf("writer printed %q after %d", sc.Text(), last)
		}
		last = e
		if lines == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	_ = cmd.Wait() // killed, or ended with a reason on stderr
	if lines < n {
		t.Fatalf("writer ended after %d epochs", lines)
	}
	return last
}

func TestTheEmbeddedStoreOpensNoSocket(t *testing.T) {
	before := sockets(t)
	open(t, t.TempDir())
	if after := sockets(t); after != before {
		t.Errorf("sockets open:\n%s\nbefore:\n%s", after, before)
	}
}

// sockets describes this process's sockets, of whatever family.
func sockets(t *testing.T) string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here: ", err)
	}
	var out []string
	for _, fd := range fds {
		f, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || !strings.HasPrefix(f, "socket:") {
			continue
		}
		out = append(out, f)
	}
	return strings.Join(out, "\n")
}

func BenchmarkPut(b *testing.B) {
	s, err := Open(b.Context(), Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}()
	value := make([]byte, 500)
	for b.Loop() {
		if _, err := s.Put(b.Context(), ObjectKey("bench", "a"), value, Any); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAnEtcdThatDoesNotAnswerIsNamed(t *testing.T) {
	l, err := net.Listen("unix", "") // an abstract address that nobody accepts on
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	at := "unix-abstract:" + strings.TrimPrefix(l.Addr().String(), "@")
	_, err = Open(ctx, Options{Endpoints: []string{at}})
	if err == nil || !strings.Contains(err.Error(), at) || !strings.Contains(err.Error(), "does not answer") {
		t.Fatalf("error is %v", err)
	}
}
