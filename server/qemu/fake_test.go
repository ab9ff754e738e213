package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain lets the test's own program play QEMU when it is started with QEMU's options.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-nodefaults") {
		newFake(os.Args).run()
		return
	}
	os.Exit(m.Run())
}

// fake is a QEMU without a guest: it keeps QEMU's states and its manners in a migration, as seen with QEMU 7.2.
type fake struct {
	mu        sync.Mutex
	conn      *net.UnixConn
	file      *os.File
	runState  string
	migration string
	passes    int
	remaining int
	finish    bool          // the downtime limit allows to finish
	goOn      chan struct{} // migrate-continue
	stream    *os.File
}

func newFake(arguments []string) *fake {
	f := &fake{runState: runRunning, goOn: make(chan struct{}, 1)}
	for i, a := range arguments {
		switch {
		case a == "-incoming":
			f.runState = runInMigrate
		case a == "-pidfile":
			_ = os.WriteFile(arguments[i+1], []byte(fmt.Sprintln(os.Getpid())), 0o600)
		case strings.HasPrefix(a, "isa-debugcon"):
			_ = os.WriteFile("said", []byte("G"), 0o600)
		case a == "refuse":
			fmt.Fprintln(os.Stderr, "fake: I refuse")
			os.Exit(1)
		}
	}
	return f
}

func (f *fake) run() {
	l, err := net.Listen("unix", qmpFile)
	if err != nil {
		os.Exit(1)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		f.mu.Lock()
		f.conn = conn.(*net.UnixConn)
		f.mu.Unlock()
		fmt.Fprintln(conn, `{"QMP": {}}`)
		f.serve(f.conn)
	}
}

func (f *fake) serve(conn *net.UnixConn) {
	var pending []byte
	buffer, control := make([]byte, 64<<10), make([]byte, 128)
	for {
		n, c, _, _, err := conn.ReadMsgUnix(buffer, control)
		if err != nil || n == 0 {
			return
		}
		if messages, _ := syscall.ParseSocketControlMessage(control[:c]); len(messages) == 1 {
			if fds, _ := syscall.ParseUnixRights(&messages[0]); len(fds) == 1 {
				f.file = os.NewFile(uintptr(fds[0]), "stream")
			}
		}
		pending = append(pending, buffer[:n]...)
		for i := bytes.IndexByte(pending, '\n'); i >= 0; i = bytes.IndexByte(pending, '\n') {
			var c struct {
				Execute   string
				ID        int
				Arguments map[string]any
			}
			_ = json.Unmarshal(pending[:i], &c)
			pending = pending[i+1:]
			f.mu.Lock()
			answer := f.do(c.Execute, c.Arguments)
			f.mu.Unlock()
			if strings.HasPrefix(answer, "!") {
				fmt.Fprintf(conn, `{"error": {"class": "GenericError", "desc": %q}, "id": %d}`+"\n", answer[1:], c.ID)
				continue
			}
			fmt.Fprintf(conn, `{"return": %s, "id": %d}`+"\n", answer, c.ID)
		}
	}
}

// say emits an event; the caller holds mu.
func (f *fake) say(event, data string) {
	if f.conn != nil {
		fmt.Fprintf(f.conn, `{"event": %q, "data": %s, "timestamp": {"seconds": 1700000000, "microseconds": %d}}`+"\n", event, data, f.passes)
	}
}

func (f *fake) migrated(status string) {
	f.migration = status
	f.say("MIGRATION", fmt.Sprintf(`{"status": %q}`, status))
}

func (f *fake) do(command string, arguments map[string]any) string {
	switch command {
	case "query-status":
		return fmt.Sprintf(`{"status": %q}`, f.runState)
	case "query-migrate":
		return fmt.Sprintf(`{"status": %q, "ram": {"remaining": %d, "total": 100000, "transferred": 1, "dirty-sync-count": %d}}`, f.migration, f.remaining, f.passes)
	case "query-version":
		return `{"qemu": {"major": 7, "minor": 2, "micro": 0}}`
	case "query-machines":
		return `[{"name": "pc-q35-7.1"}, {"name": "pc-q35-7.10"}, {"name": "q35"}]`
	case "query-cpu-definitions":
		return `[{"name": "Nehalem-v1", "unavailable-features": []}, {"name": "Westmere-v1", "unavailable-features": ["aes"]}]`
	case "query-migrate-capabilities":
		return `[{"capability": "events"}, {"capability": "pause-before-switchover"}, {"capability": "late-block-activate"}, {"capability": "dirty-bitmaps"}]`
	case "migrate-set-parameters":
		f.finish = arguments["downtime-limit"].(float64) == downtimeToFinish
	case "stop":
		if f.runState == runRunning {
			f.runState = runPaused
			f.say("STOP", "null")
		}
	case "cont":
		if f.runState == runInMigrate || f.migration == migrationActive && f.runState == runFinish {
			return "!not now"
		}
		if f.runState != runRunning {
			f.runState = runRunning
			f.say("RESUME", "null")
		}
	case "migrate":
		f.stream, f.remaining, f.passes = f.file, 100_000, 1
		f.migrated(migrationActive)
		go f.send(f.stream)
	case "migrate-incoming":
		go f.receive(f.file)
	case "migrate-continue":
		f.goOn <- struct{}{}
	case "migrate_cancel":
		if f.migration == migrationActive || f.migration == migrationPreSwitchover {
			f.stream.Close()
		}
	}
	return "{}"
}

// send goes over its memory again and again until it may finish, which without a stopped guest it never may: the ballast.
func (f *fake) send(stream *os.File) {
	page := bytes.Repeat([]byte("p"), 1000)
	for {
		if _, err := stream.Write(page); err != nil {
			f.end(migrationFailed, stream)
			return
		}
		f.mu.Lock()
		f.remaining -= len(page)
		if f.remaining <= 0 {
			f.remaining, f.passes = 10*len(page), f.passes+1
		}
		ready := f.finish && f.runState == runPaused
		if ready {
			f.migrated(migrationPreSwitchover)
		}
		f.mu.Unlock()
		if !ready {
			continue
		}
		<-f.goOn
		_, err := io.WriteString(stream, "END")
		if err != nil {
			f.end(migrationFailed, stream)
			return
		}
		f.end(migrationCompleted, stream)
		return
	}
}

func (f *fake) end(status string, stream *os.File) {
	stream.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if status == migrationCompleted {
		f.runState = runPostMigrate
	}
	f.migrated(status)
}

// receive is loaded when the stream is whole; otherwise it ends as QEMU does.
func (f *fake) receive(stream *os.File) {
	f.mu.Lock()
	f.migrated(migrationActive)
	f.mu.Unlock()
	all, err := io.ReadAll(stream)
	if err != nil || !bytes.HasSuffix(all, []byte("END")) {
		fmt.Fprintln(os.Stderr, "fake: load of migration failed")
		os.Exit(1)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runState = runPaused
	f.migrated(migrationCompleted)
}
