//go:build lab

package native_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server/native"
)

// This test's binary is the shepherd and the program too.
func TestMain(m *testing.M) {
	switch os.Getenv("GODWIT_NATIVE_TEST") {
	case "program":
		count()
	case "":
		os.Exit(m.Run())
	default:
		if err := native.Shepherd(); err != nil {
			panic(err)
		}
	}
}

// count is the program: it keeps a number, and tells it to whoever is at the socket, each time anew.
func count() {
	ballast := bytes.Repeat([]byte("a state of its own "), 1<<16)
	for n := 0; ; {
		c, err := net.Dial("unix", os.Args[1])
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		for lines := bufio.NewReader(c); ; n++ {
			if _, err := lines.ReadString('\n'); err != nil {
				break
			}
			_, _ = fmt.Fprintf(c, "%d %d\n", n+1, len(ballast))
			fmt.Println("said", n+1)
		}
		_ = c.Close()
	}
}

// output keeps what a program writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) has(text string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Contains(o.b.String(), text)
}

// machine is one end of a move: a socket to which the program comes, and what its place needs.
type machine struct {
	t      *testing.T
	path   string
	l      net.Listener
	criu   string
	output *output
}

func findCRIU(t *testing.T) string {
	t.Helper()
	path, err := native.Find(t.Context(), func(name string) string {
		if set := os.Getenv(name); set != "" {
			return set
		}
		if there, err := filepath.Abs("../../.cache/criu/criu"); err == nil {
			if _, err := os.Stat(there); err == nil {
				return there
			}
		}
		return ""
	})
	if err != nil {
		t.Skip(err)
	}
	return path
}

func newMachine(t *testing.T, criu string) *machine {
	t.Helper()
	m := &machine{t: t, path: filepath.Join(t.TempDir(), "s"), criu: criu, output: &output{}}
	var err error
	if m.l, err = net.Listen("unix", m.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.l.Close() })
	return m
}

func (m *machine) place() *native.Place {
	m.t.Helper()
	m.t.Setenv("GODWIT_NATIVE_TEST", "shepherd")
	dir := filepath.Join(os.TempDir(), "godwit-test-place")
	m.t.Cleanup(func() { _ = os.Remove(dir) }) // that of the last place succeeds
	p, err := native.Prepare(m.t.Context(), native.Options{
		Shepherd: []string{"/proc/self/exe"}, Dir: dir, Program: "/proc/self/exe",
		Links: map[string]string{"s": m.path}, CRIU: m.criu, Output: m.output,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(p.Close)
	return p
}

// client is the other end of the program's connection.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (m *machine) accept() *client {
	m.t.Helper()
	if err := m.l.(*net.UnixListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	c, err := m.l.Accept()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = c.Close() })
	return &client{m.t, c, bufio.NewReader(c)}
}

func (c *client) ask(want int) {
	c.t.Helper()
	if err := c.c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(c.c, "more\n"); err != nil {
		c.t.Fatal(err)
	}
	got, err := c.r.ReadString('\n')
	if err != nil || !strings.HasPrefix(got, fmt.Sprint(want, " ")) {
		c.t.Fatalf("%q, %v, want %d", got, err, want)
	}
}

// ship takes an image of a place to another directory, as from one machine to another.
func ship(t *testing.T, from *native.Place) string {
	t.Helper()
	here, there := t.TempDir(), t.TempDir()
	began := time.Now()
	if err := from.Dump(t.Context(), here); err != nil {
		t.Fatal(err)
	}
	t.Logf("dump: %v", time.Since(began))
	var b bytes.Buffer
	if err := native.Send(&b, here); err != nil {
		t.Fatal(err)
	}
	t.Logf("image: %d bytes", b.Len())
	if err := native.Receive(&b, there, 1<<30); err != nil {
		t.Fatal(err)
	}
	return there
}

// A process with a state, threads and a connection goes from machine to machine and back, beside its stopped original; one whose move is given
// up goes on where it was, with its connection.
func TestAProcessMovesWithAllItKnows(t *testing.T) {
	criu := findCRIU(t)
	a, b := newMachine(t, criu), newMachine(t, criu)
	here := a.place()
	if err := here.Start(t.Context(), []string{filepath.Join(os.TempDir(), "godwit-test-place", "s")}, []string{"GODWIT_NATIVE_TEST=program"}); err != nil {
		t.Fatal(err)
	}
	talk := a.accept()
	talk.ask(1)
	ship(t, here) // given up
	if err := here.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk.ask(2)
	for n := 3; n < 7; n++ {
		image := ship(t, here)
		there := b.place()
		began := time.Now()
		if err := there.Restore(t.Context(), image); err != nil {
			t.Fatal(err)
		}
		t.Logf("restore: %v", time.Since(began))
		here.Close()
		if err := there.Continue(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.accept().ask(n)
		here, a, b = there, b, a
	}
	here.Close()
	for _, m := range []*machine{a, b} {
		if !m.output.has("said 5") && !m.output.has("said 6") {
			t.Errorf("output: %s", m.output.b.String())
		}
	}
	if err := here.Continue(t.Context()); !errors.Is(err, native.ErrEnded) {
		t.Error(err)
	}
}

// A program that ends by itself ends its place, and the place says how.
func TestAProgramThatEndsEndsItsPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip(native.ErrRoot)
	}
	m := newMachine(t, "")
	p := m.place()
	if err := p.Start(t.Context(), nil, []string{"GODWIT_NATIVE_TEST=program"}); err != nil { // it wants an argument
		t.Fatal(err)
	}
	select {
	case <-p.Ended():
	case <-time.After(20 * time.Second):
		t.Fatal("the place does not end")
	}
	if err := p.Reason(); !errors.Is(err, native.ErrEnded) || !strings.Contains(err.Error(), "exit status 2") {
		t.Error(err)
	}
	if err := p.Dump(context.Background(), t.TempDir()); !errors.Is(err, native.ErrEnded) {
		t.Error(err)
	}
}
