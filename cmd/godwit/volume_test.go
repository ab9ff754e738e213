package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// told closes began when something is printed.
type told struct {
	bytes.Buffer
	began chan struct{}
}

func (o *told) Write(p []byte) (int, error) {
	defer func() {
		if strings.Contains(o.String(), "connect with") {
			close(o.began)
		}
	}()
	return o.Buffer.Write(p)
}

func TestAVolumeIsServedUntilInterruptedAlsoOverAStaleSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "cli-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file, socket := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "s")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()

	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	out := &told{began: make(chan struct{})}
	var complaints bytes.Buffer
	a := &app{out: out, err: &complaints, env: func(string) string { return "" }, now: noon}
	code := make(chan int, 1)
	go func() { code <- a.run(ctx, []string{"volume", "serve", file, "--socket", socket, "--checksums"}) }()
	select {
	case <-out.began:
	case got := <-code:
		t.Fatalf("it ended with %d: %s", got, complaints.String())
	}
	if c, err := net.Dial("unix", socket); err != nil {
		t.Errorf("nobody listens: %v", err)
	} else {
		_ = c.Close()
	}
	interrupt()
	if got := <-code; got != exitOK {
		t.Errorf("it ended with %d: %s", got, complaints.String())
	}
	if want := "serving " + file + " (1 MiB, read and write) on " + socket; !strings.HasPrefix(out.String(), want) {
		t.Errorf("it said %q, want %q", out.String(), want)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestASparseFileHoldsWhatWasWrittenInWhateverPieces(t *testing.T) {
	content := make([]byte, 3<<20)
	for i := range content {
		if i/70000%2 == 0 {
			content[i] = byte(i)
		}
	}
	for _, piece := range []int{1 << 20, 4096, 5000, 333} {
		file, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		sparse := &sparseFile{file: file}
		for at := 0; at < len(content); at += piece {
			p := content[at:min(at+piece, len(content))]
			if n, err := sparse.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := file.Truncate(sparse.at); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file.Name())
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("in pieces of %d it is another one: %v", piece, err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(file.Name(), &st); err != nil || st.Blocks*512 > int64(len(content))*3/4 {
			t.Errorf("it takes %d bytes: %v", st.Blocks*512, err)
		}
	}
}
