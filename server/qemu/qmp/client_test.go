package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`

// serve plays QEMU: it greets, then calls answer with each command and sends the lines that it returns.
func serve(t *testing.T, answer func(command string, id int) []string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s\r\n", greeting)
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				var c struct {
					Execute string
					ID      int
				}
				if json.Unmarshal(lines.Bytes(), &c) != nil {
					break
				}
				said := []string{fmt.Sprintf(`{"return": {}, "id": %d}`, c.ID)}
				if c.Execute != "qmp_capabilities" {
					said = answer(c.Execute, c.ID)
				}
				for _, s := range said {
					if s == "hang up" {
						conn.Close()
					}
					fmt.Fprintf(conn, "%s\r\n", s)
				}
			}
			conn.Close()
		}
	}()
	return path
}

func dial(t *testing.T, path string, onEvent func(Event)) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnswersFindTheirCommandsAndEventsKeepTheirOrder(t *testing.T) {
	path := serve(t, func(command string, id int) []string {
		return []string{
			`{"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 250000}}`,
			`{"event": "RESUME", "data": {"a": 1}, "timestamp": {"seconds": -1, "microseconds": -1}}`,
			`{"return": {"whose": "another's"}, "id": 99999}`,
			fmt.Sprintf(`{"return": {"command": %q}, "id": %d}`, command, id),
		}
	})
	var events []Event
	c := dial(t, path, func(e Event) { events = append(events, e) })
	var r struct{ Command, Whose string }
	if err := c.Do(t.Context(), "query-status", nil, &r); err != nil || r.Command != "query-status" || r.Whose != "" {
		t.Fatalf("answer %+v, error %v", r, err)
	}
	c.Close()
	if len(events) != 2 || events[0].Name != "STOP" || !events[0].Time.Equal(time.Unix(1700000000, 250000000)) {
		t.Errorf("events: %v", events)
	}
	if !events[1].Time.IsZero() || string(events[1].Data) != `{"a": 1}` {
		t.Errorf("event without a clock: %+v", events[1])
	}
}

func TestARefusalNamesCommandAndReason(t *testing.T) {
	path := serve(t, func(_ string, id int) []string {
		return []string{fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no way"}, "id": %d}`, id)}
	})
	err := dial(t, path, nil).Do(t.Context(), "cont", nil, nil)
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Command != "cont" || !strings.Contains(err.Error(), "no way") {
		t.Fatalf("error %v", err)
	}
}

func TestALargeAnswerArrivesWhole(t *testing.T) {
	large := strings.Repeat("x", 5<<20)
	path := serve(t, func(_ string, id int) []string { return []string{fmt.Sprintf(`{"return": %q, "id": %d}`, large, id)} })
	var got string
	if err := dial(t, path, nil).Do(t.Context(), "query-qmp-schema", nil, &got); err != nil || got != large {
		t.Fatalf("%d bytes, error %v", len(got), err)
	}
}

func TestACallGivenUpLeavesTheConnectionInOrder(t *testing.T) {
	late := ""
	path := serve(t, func(command string, id int) []string {
		answer := fmt.Sprintf(`{"return": %q, "id": %d}`, command, id)
		if command == "slow" {
			late = answer
			return nil
		}
		return []string{late, answer}
	})
	c := dial(t, path, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Do(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	var got string
	if err := c.Do(t.Context(), "quick", nil, &got); err != nil || got != "quick" {
		t.Fatalf("got %q, error %v", got, err)
	}
}

func TestTheEndOfQEMUEndsWaitingCalls(t *testing.T) {
	path := serve(t, func(string, int) []string { return []string{"hang up"} })
	c := dial(t, path, nil)
	if err := c.Do(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("error %v", err)
	}
	<-c.Done()
	if err := c.Do(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("error afterwards %v", err)
	}
}

func TestNonsenseEndsTheConnection(t *testing.T) {
	path := serve(t, func(string, int) []string { return []string{"} what"} })
	if err := dial(t, path, nil).Do(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("error %v", err)
	}
}

func TestASilentSocketMeetsTheDeadline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
}

func TestALongPathCanBeDialled(t *testing.T) {
	short := serve(t, func(_ string, id int) []string { return []string{fmt.Sprintf(`{"return": {}, "id": %d}`, id)} })
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Symlink(filepath.Dir(short), long); err != nil {
		t.Fatal(err)
	}
	if err := dial(t, filepath.Join(long, "qmp"), nil).Do(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
}

func TestADescriptorTravelsWithGetFD(t *testing.T) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*net.UnixConn{}
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "end")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends[i] = conn.(*net.UnixConn)
	}
	rights := make(chan int, 1)
	go func() {
		defer close(rights)
		fmt.Fprintln(ends[1], greeting)
		buffer, control := make([]byte, 4096), make([]byte, 128)
		for id := 1; id <= 2; id++ {
			_, n, _, _, err := ends[1].ReadMsgUnix(buffer, control)
			if err != nil {
				return
			}
			if messages, _ := syscall.ParseSocketControlMessage(control[:n]); len(messages) == 1 {
				fds, _ := syscall.ParseUnixRights(&messages[0])
				for _, fd := range fds {
					syscall.Close(fd)
				}
				rights <- len(fds)
			}
			fmt.Fprintf(ends[1], `{"return": {}, "id": %d}`+"\n", id)
		}
	}()
	c, err := NewClient(t.Context(), ends[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.GetFD(t.Context(), "stream", os.Stdin); err != nil {
		t.Fatal(err)
	}
	if n := <-rights; n != 1 {
		t.Fatalf("%d descriptors", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"event": "STOP", "timestamp": {"seconds": 1700000000, "microseconds": 1}}`))
	f.Add([]byte(`{"event": "MIGRATION", "data": {"status": "active"}, "timestamp": {"seconds": -1, "microseconds": -1}}`))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"return": [], "id": "not ours"}`))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "x"}, "id": 18446744073709551615}`))
	f.Add([]byte(`{"return": null}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err != nil {
			return
		}
		kinds := 0
		for _, is := range []bool{m.greeting, m.event != nil, m.result != nil, m.refusal != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			t.Errorf("%q is %d things at once: %+v", line, kinds, m)
		}
	})
}
