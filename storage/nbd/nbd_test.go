package nbd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// memory is a backend in memory, allocated in blocks of 64 KiB so that there are holes to describe.
type memory struct {
	mu       sync.RWMutex
	b        []byte
	readOnly bool
	parked   chan struct{} // when not nil, writes wait for it
}

const block = 64 << 10

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.b[off:])
	return nil
}

func (m *memory) WriteAt(ctx context.Context, p []byte, off int64, _ bool) error {
	if m.readOnly {
		return fmt.Errorf("replica: %w", syscall.EPERM)
	}
	if m.parked != nil {
		select {
		case <-m.parked:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[off:], p)
	return nil
}

func (m *memory) Trim(ctx context.Context, off, length int64, fua bool) error {
	return m.WriteAt(ctx, make([]byte, length), off, fua)
}

func (m *memory) Zero(ctx context.Context, off, length int64, _, fua bool) error {
	return m.WriteAt(ctx, make([]byte, length), off, fua)
}

func (m *memory) Flush(context.Context) error { return nil }

func (m *memory) Extents(_ context.Context, off, length int64, most int) ([]Extent, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Extent
	for pos := off; pos < off+length; {
		end := min(pos/block*block+block, off+length)
		zero := len(bytes.Trim(m.b[pos:end], "\x00")) == 0
		if n := len(out); n > 0 && out[n-1].Zero == zero {
			out[n-1].Length += end - pos
		} else if n == most {
			break
		} else {
			out = append(out, Extent{Length: end - pos, Hole: zero, Zero: zero})
		}
		pos = end
	}
	return out, nil
}

func serve(t *testing.T, m Backend) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw-nbd-*")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(ln, "shop.root", m, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		_ = s.Close()
		_ = os.RemoveAll(dir)
	})
	return socket
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestNbdinfoSeesTheExport(t *testing.T) {
	m := &memory{b: make([]byte, 1<<20)}
	copy(m.b[3*block:], "data")
	uri := "nbd+unix:///?socket=" + serve(t, m)
	out := tool(t, "nbdinfo", uri)
	for _, want := range []string{
		"export-size: 1048576", "is_read_only: false", "can_multi_conn: true", "can_fua: true",
		"can_flush: true", "can_trim: true", "can_zero: true", "base:allocation", "block_size_maximum: 33554432",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo does not say %q:\n%s", want, out)
		}
	}
	if out := tool(t, "nbdinfo", "--list", uri); !strings.Contains(out, `export="shop.root"`) {
		t.Errorf("list lacks the export:\n%s", out)
	}
	if out := tool(t, "nbdinfo", "--map", uri); !strings.Contains(out, "data") || strings.Count(out, "hole") != 2 {
		t.Errorf("the map should be hole, data, hole:\n%s", out)
	}
}

func TestNbdcopyRoundTrip(t *testing.T) {
	m := &memory{b: make([]byte, 8<<20)}
	uri := "nbd+unix:///shop.root?socket=" + serve(t, m)
	in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	want := bytes.Repeat([]byte("0123456789abcdef"), len(m.b)/16)
	clear(want[1<<20 : 3<<20])
	if err := os.WriteFile(in, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "nbdcopy", "--flush", in, uri)
	tool(t, "nbdcopy", uri, out)
	if got, _ := os.ReadFile(out); !bytes.Equal(got, want) || !bytes.Equal(m.b, want) {
		t.Fatal("the copy differs")
	}
}

func TestQemuIoReadsWritesTrimsAndZeroes(t *testing.T) {
	m := &memory{b: make([]byte, 8<<20)}
	uri := "nbd+unix:///shop.root?socket=" + serve(t, m)
	out := tool(t, "qemu-io", "-f", "raw", "-t", "none",
		"-c", "write -P 7 0 1M", "-c", "write -f -P 8 1M 64k", "-c", "discard 64k 64k", "-c", "write -z 128k 64k",
		"-c", "write -z -u 192k 64k", "-c", "flush", "-c", "read -P 7 0 64k", "-c", "read -P 0 64k 192k", "-c", "read -P 8 1M 64k",
		"-c", "aio_write -P 9 4M 1M", "-c", "aio_write -P 10 5M 1M", "-c", "aio_flush", "-c", "read -P 10 5M 1M",
		"-c", "write -P 3 4194001 100", "-c", "read -P 3 4194001 100", "-c", "map", uri)
	if strings.Contains(out, "failed") {
		t.Fatal(out)
	}
}

func TestARefusedWriteIsPermissionDenied(t *testing.T) {
	uri := "nbd+unix:///?socket=" + serve(t, &memory{b: make([]byte, 1<<20), readOnly: true})
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed")
	}
	out, _ := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4k", "-c", "read -P 0 0 4k", uri).CombinedOutput()
	if !strings.Contains(string(out), "Operation not permitted") || !strings.Contains(string(out), "read 4096/4096") {
		t.Fatalf("want a refused write and a good read:\n%s", out)
	}
}

// A raw client, to say what well-behaved ones do not.
type client struct {
	net.Conn
	t *testing.T
}

func (c client) expect(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

func dial(t *testing.T, socket string) client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := client{conn, t}
	c.expect(18)
	_, _ = c.Write(exportNameHandshake)
	c.expect(10)
	return c
}

// exportNameHandshake chooses the default export the old way, without the 124 zeroes.
var exportNameHandshake = []byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00")

func command(flags, cmd uint16, cookie byte, off uint64, length uint32) []byte {
	b := []byte{0x25, 0x60, 0x95, 0x13, byte(flags >> 8), byte(flags), byte(cmd >> 8), byte(cmd), 0, 0, 0, 0, 0, 0, 0, cookie}
	for i := 7; i >= 0; i-- {
		b = append(b, byte(off>>(8*i)))
	}
	return append(b, byte(length>>24), byte(length>>16), byte(length>>8), byte(length))
}

func TestBadRequestsGetTheErrorOfTheDocument(t *testing.T) {
	socket := serve(t, &memory{b: make([]byte, 1<<20)})
	c := dial(t, socket)
	for _, tc := range []struct {
		name    string
		request []byte
		want    byte
	}{
		{"read past the end", command(0, cmdRead, 1, 1<<20-1, 2), errInval},
		{"read at an offset that overflows", command(0, cmdRead, 2, 1<<63, 1<<30), errInval},
		{"write past the end", append(command(0, cmdWrite, 3, 1<<20-1, 2), 1, 2), errNoSpace},
		{"zero past the end", command(0, cmdWriteZeroes, 4, 0, 1<<21), errNoSpace},
		{"trim past the end", command(0, cmdTrim, 5, 1<<21, 1), errInval},
		{"unknown command", command(0, 99, 6, 0, 0), errInval},
		{"unknown flag", command(1<<9, cmdRead, 7, 0, 1), errInval},
		{"block status without a context", command(0, cmdBlockStatus, 8, 0, 1), errInval},
		{"flush after all that", command(0, cmdFlush, 9, 0, 0), 0},
	} {
		_, _ = c.Write(tc.request)
		if got := c.expect(16); got[7] != tc.want || got[15] != tc.request[15] {
			t.Errorf("%s: error %d for cookie %d, want %d", tc.name, got[7], got[15], tc.want)
		}
	}
}

func TestAParkedWriteHoldsUpNothingElseAndIsNeverFailed(t *testing.T) {
	m := &memory{b: make([]byte, 1<<20), parked: make(chan struct{})}
	c := dial(t, serve(t, m))
	_, _ = c.Write(append(command(0, cmdWrite, 1, 0, 3), "abc"...))
	_, _ = c.Write(command(0, cmdRead, 2, 0, 3))
	if got := c.expect(19); got[15] != 2 || string(got[16:]) != "\x00\x00\x00" {
		t.Fatalf("the read came back as %x", got)
	}
	close(m.parked)
	if got := c.expect(16); got[7] != 0 || got[15] != 1 {
		t.Fatalf("the write came back as %x", got)
	}
}

func TestClosingCutsParkedRequestsWithoutAnAnswer(t *testing.T) {
	m := &memory{b: make([]byte, 1<<20), parked: make(chan struct{})}
	dir := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip("temporary directory is too deep for a socket")
	}
	s := Serve(ln, "", m, slog.New(slog.DiscardHandler))
	c := dial(t, filepath.Join(dir, "s"))
	_, _ = c.Write(append(command(0, cmdWrite, 1, 0, 3), "abc"...))
	_, _ = c.Write(command(0, cmdFlush, 2, 0, 0))
	c.expect(16)
	_ = s.Close()
	if b, _ := io.ReadAll(c); len(b) != 0 {
		t.Fatalf("an answer came: %x", b)
	}
}

// pipe feeds a fixed input and swallows the output.
type pipe struct {
	io.Reader
}

func (p pipe) Read(b []byte) (int, error)  { return p.Reader.Read(b) }
func (p pipe) Write(b []byte) (int, error) { return len(b), nil }
func (p pipe) cut()                        {}

// prompt is a memory that answers some requests at once.
type prompt struct{ *memory }

func (p prompt) TryReadAt(b []byte, off int64) (bool, error) {
	if off%3 == 0 {
		return false, nil
	}
	return true, p.ReadAt(context.Background(), b, off)
}

func (p prompt) TryWriteAt(b []byte, off int64) (bool, error) {
	if off%3 == 0 {
		return false, nil
	}
	return true, p.WriteAt(context.Background(), b, off, false)
}

func (p prompt) ZeroFast(ctx context.Context, off, length int64, allocate, fua bool) error {
	if off%2 == 0 {
		return fmt.Errorf("slow: %w", syscall.EOPNOTSUPP)
	}
	return p.Zero(ctx, off, length, allocate, fua)
}

func (p prompt) Cache(context.Context, int64, int64) error { return nil }

func TestAPromptBackendAnswersWhatItCanAndHandsOverTheRest(t *testing.T) {
	m := prompt{&memory{b: make([]byte, 1<<20)}}
	a, b := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- newTransmission(context.Background(), &conn{net: b, fd: -1}, m, terms{size: m.Size(), flags: flagsOf(m, false)}).run()
	}()
	c := client{a, t}
	var sent []byte
	for off := range byte(6) {
		sent = append(sent, append(command(0, cmdWrite, off, uint64(off)*4096, 4), 'w', 'x', 'y', off)...)
	}
	go func() { _, _ = c.Write(sent) }()
	for range 6 {
		if got := c.expect(16); got[7] != 0 {
			t.Fatalf("a write failed: %x", got)
		}
	}
	for off := range byte(6) {
		_, _ = c.Write(command(0, cmdRead, off, uint64(off)*4096, 4))
		if got := c.expect(20); got[7] != 0 || got[15] != off || string(got[16:19]) != "wxy" || got[19] != off {
			t.Fatalf("read back %x", got)
		}
	}
	for _, tc := range []struct {
		request []byte
		want    byte
	}{
		{command(cmdFlagFastZero, cmdWriteZeroes, 1, 4096, 1), errNotSup},
		{command(cmdFlagFastZero, cmdWriteZeroes, 2, 4097, 1), 0},
		{command(0, cmdCache, 3, 0, 4096), 0},
		{command(0, cmdCache, 4, 1<<20, 1), errInval},
	} {
		_, _ = c.Write(tc.request)
		if got := c.expect(16); got[7] != tc.want {
			t.Errorf("request %d: error %d, want %d", tc.request[15], got[7], tc.want)
		}
	}
	_ = a.Close()
	if err := <-done; err == nil {
		t.Error("it ended well without a goodbye")
	}
}

func TestAReadOnlyExportChangesNothing(t *testing.T) {
	m := &memory{b: make([]byte, 1<<20)}
	agreed := terms{size: m.Size(), flags: flagsOf(m, true)}
	for _, cmd := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes} {
		if no := (&request{cmd: cmd, length: 1}).check(&agreed); no != errPerm {
			t.Errorf("command %d: error %d", cmd, no)
		}
	}
	if no := (&request{cmd: cmdRead, length: 1}).check(&agreed); no != 0 {
		t.Errorf("read: error %d", no)
	}
}

func FuzzConnection(f *testing.F) {
	for _, cmd := range []uint16{cmdRead, cmdCache, cmdWriteZeroes} {
		f.Add(append(bytes.Clone(exportNameHandshake), append(command(0, cmd, 1, 1, 4096), command(cmdFlagFastZero, cmd, 1, 0, 4096)...)...))
	}
	f.Add(append(bytes.Clone(exportNameHandshake), append(command(1, cmdWrite, 1, 0, 3), "abc"...)...))
	f.Add(append(bytes.Clone(exportNameHandshake), command(0, cmdTrim, 1, 0, 4096)...))
	goOption := "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00" +
		"IHAVEOPT\x00\x00\x00\x0a\x00\x00\x00\x1b\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation" +
		"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00"
	f.Add(append([]byte(goOption), command(0, cmdBlockStatus, 1, 0, 4096)...))
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		p := pipe{Reader: bytes.NewReader(data)}
		m := prompt{&memory{b: make([]byte, block)}}
		n := negotiation{rw: p, name: "a", plain: true, terms: terms{size: m.Size(), flags: flagsOf(m, false)}}
		if n.run() == nil {
			_ = newTransmission(context.Background(), p, m, n.terms).run()
		}
	})
}

func FuzzOptionData(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01a\x00\x01\x00\x03"))
	f.Add([]byte("\x00\x00\x00\x01a\x00\x00\x00\x01\x00\x00\x00\x01q"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if name, wanted, err := parseInfo(data); err == nil && 4+len(name)+2+2*len(wanted) != len(data) {
			t.Fatal("bytes of the option were ignored")
		}
		if _, queries, err := parseMeta(data); err == nil && 8+4*len(queries) > len(data) {
			t.Fatal("more queries than bytes")
		}
	})
}
