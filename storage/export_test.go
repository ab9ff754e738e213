package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// guest is a raw NBD client, as simple as can be: one request at a time.
type guest struct {
	net.Conn
	cookie uint64
}

func connect(socket string) (*guest, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(c, make([]byte, 18))
	if err == nil {
		_, err = c.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"))
	}
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 10))
	}
	return &guest{Conn: c}, err
}

// do sends a command and returns the server's error number; data is written, or, for a read (0), read into.
func (g *guest) do(cmd uint16, off int64, data []byte) (uint32, error) {
	g.cookie++
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, g.cookie)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if cmd == 1 {
		b = append(b, data...)
	}
	if _, err := g.Write(b); err != nil {
		return 0, err
	}
	var reply [16]byte
	if _, err := io.ReadFull(g, reply[:]); err != nil {
		return 0, err
	}
	if binary.BigEndian.Uint64(reply[8:]) != g.cookie {
		return 0, errors.New("answer to another request")
	}
	no := binary.BigEndian.Uint32(reply[4:])
	if cmd == 0 && no == 0 {
		_, err := io.ReadFull(g, data)
		return 0, err
	}
	return no, nil
}

func TestPromotionKeepsTheConnectionOfTheWaitingGuest(t *testing.T) {
	_, east, a, b := pair(t)
	socket := filepath.Join(east.dir, "s")
	must(t, b.Serve(socket), b.Serve(socket))
	g, err := connect(socket)
	must(t, err)
	defer g.Close()
	no, err := g.do(1, 0, []byte("early"))
	if must(t, err); no != uint32(syscall.EPERM) {
		t.Fatalf("a write to the replica ended with %d", no)
	}
	must(t, client{a}.WriteAt(background, []byte("old"), 0, false))
	must(t, a.Replicate(background, 2, east.dialer(a.name, nil)), a.Fence(background, 2), b.Promote(background, 2))
	got := make([]byte, 3)
	no, err = g.do(0, 0, got)
	if must(t, err); no != 0 || string(got) != "old" {
		t.Fatalf("the read ended with %d, %q", no, got)
	}
	no, err = g.do(1, 0, []byte("new"))
	if must(t, err); no != 0 || string(image(t, b)[:3]) != "new" {
		t.Fatalf("the write after promotion ended with %d", no)
	}
}

func TestServeMovesAndRefusesWhatIsNotItsOwn(t *testing.T) {
	s := newSite(t, quick)
	v, err := s.get().Create(background, small, 1)
	must(t, err)
	first, second := filepath.Join(s.dir, "run/1"), filepath.Join(s.dir, "run/2")
	must(t, v.Serve(first), v.Serve(second))
	if st := v.Status(); st.Socket != second {
		t.Errorf("it is served at %s", st.Socket)
	}
	other, err := s.get().Create(background, Spec{Name: "other", Size: 512}, 1)
	must(t, err)
	if err := other.Serve(second); err == nil {
		t.Error("a live socket was taken over")
	}
	file := filepath.Join(s.dir, "run/file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, bad := range []string{file, "relative", "/" + strings.Repeat("x", 200)} {
		if err := other.Serve(bad); err == nil {
			t.Errorf("served at %q", bad)
		}
	}
}

func TestQemuIoAndNbdcopyAgreeWithTheVolume(t *testing.T) {
	for _, tool := range []string{"qemu-io", "nbdcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	s := newSite(t, quick)
	v, err := s.get().Create(background, Spec{Name: "shop.root", Size: 64 << 20}, 1)
	must(t, err)
	socket := filepath.Join(s.dir, "s")
	must(t, v.Serve(socket))
	out, err := exec.Command("qemu-io", "-f", "raw", "-t", "none", "-c", "write -P 7 1M 1M", "-c", "write -P 8 32M 64k", "-c", "discard 1M 64k",
		"-c", "write -z 1088k 64k", "-c", "write -f -P 9 60M 512", "-c", "flush", "-c", "read -P 0 1M 128k", "-c", "read -P 7 1152k 64k",
		"nbd+unix:///shop.root?socket="+socket).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("failed")) {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
	copied := filepath.Join(s.dir, "copy")
	if out, err := exec.Command("nbdcopy", "nbd+unix:///?socket="+socket, copied).CombinedOutput(); err != nil {
		t.Fatalf("nbdcopy: %v\n%s", err, out)
	}
	got, err := os.ReadFile(copied)
	if must(t, err); !bytes.Equal(got, image(t, v)) {
		t.Error("the copy differs from the base file")
	}
}

const childEnv = "GODWIT_STORAGE_TEST_CHILD"

// TestMain lets the test binary be the agent that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		s, err := Open(dir, quick)
		if err == nil && len(s.Volumes()) == 0 {
			var v *Volume
			if v, err = s.Create(background, small, 1); err == nil {
				err = v.Serve(filepath.Join(dir, "s"))
			}
		}
		fmt.Println("ready", err)
		select {}
	}
	os.Exit(m.Run())
}

func TestAKilledAgentLosesNoAcknowledgedWrite(t *testing.T) {
	dir := fastDir(t)
	want := make([]byte, small.Size)
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		line := make([]byte, len("ready <nil>"))
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "ready <nil>" {
			t.Fatalf("the agent says %q: %v", line, err)
		}
		g, err := connect(filepath.Join(dir, "s"))
		must(t, err)
		got := make([]byte, small.Size)
		_, err = g.do(0, 0, got)
		if must(t, err); !bytes.Equal(got, want) {
			t.Fatalf("round %d: an acknowledged write is lost", round)
		}
		for i := range 100 {
			off := (i*7919*512 + round*512) % (int(small.Size) - 4096) / 512 * 512
			p := bytes.Repeat([]byte{byte(1 + i + round)}, 512)
			no, err := g.do(1, int64(off), p)
			if must(t, err); no != 0 {
				t.Fatalf("write: error %d", no)
			}
			copy(want[off:], p)
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		_ = g.Close()
	}
}
