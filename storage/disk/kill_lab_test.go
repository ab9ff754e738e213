//go:build lab

package disk

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/nbd"
)

const (
	killRounds = 40
	killSize   = 32 << 20
	serveEnv   = "GODWIT_TEST_SERVE" // the folder in which the process below serves
)

// TestServeUntilKilled is the process that is killed; by itself it is nothing.
func TestServeUntilKilled(t *testing.T) {
	dir := os.Getenv(serveEnv)
	if dir == "" {
		t.Skip("only for TestAKilledServerLosesNoAnsweredWrite")
	}
	d, err := Open(filepath.Join(dir, "disk"), Options{Checksums: true, Upkeep: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, "s"))
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	nbd.Start(ln, d.Backend(), nbd.Options{})
	fmt.Println("serving")
	select {}
}

// record is what a client knows: the number last answered for each block, and the one that is under way.
type record struct{ answered, doing []uint64 }

func TestAKilledServerLosesNoAnsweredWrite(t *testing.T) {
	dir, err := os.MkdirTemp("", "gw-kill-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "disk")
	if err := Create(path, killSize, Options{Checksums: true}); err != nil {
		t.Fatal(err)
	}
	blocks := killSize / BlockSize
	r := &record{answered: make([]uint64, blocks), doing: make([]uint64, blocks)}
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	number, writes := uint64(0), 0
	for range killRounds {
		number = killOnce(t, dir, r, rng, number)
		writes += checkAfterKill(t, path, r)
	}
	t.Logf("%d kills, %d writes, of which %d were under way", killRounds, number, writes)
}

// killOnce lets a client write to a process that is killed meanwhile.
func killOnce(t *testing.T, dir string, r *record, rng *rand.Rand, number uint64) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeUntilKilled$")
	cmd.Env = append(os.Environ(), serveEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := io.ReadFull(out, make([]byte, len("serving"))); err != nil {
		t.Fatalf("the server did not begin: %v", err)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 18)); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"))
	if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Duration(5+rng.IntN(150))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for {
		// A batch of writes to different places, then their answers.
		batch := map[uint64]uint64{}
		var sent []byte
		for range 1 + rng.IntN(32) {
			block, n := rng.IntN(len(r.doing)-4), 1+rng.IntN(4)
			if clashes(r, block, n) {
				continue
			}
			number++
			batch[number] = uint64(block)<<8 | uint64(n)
			for i := block; i < block+n; i++ {
				r.doing[i] = number
			}
			sent = append(sent, writeRequest(number, block, n)...)
		}
		if _, err := conn.Write(sent); err != nil {
			return number
		}
		for range batch {
			var reply [16]byte
			if _, err := io.ReadFull(conn, reply[:]); err != nil {
				return number
			}
			if no := binary.BigEndian.Uint32(reply[4:]); no != 0 {
				t.Fatalf("a write failed with error %d", no)
			}
			answered := binary.BigEndian.Uint64(reply[8:])
			where := batch[answered]
			for i := where >> 8; i < where>>8+where&0xff; i++ {
				r.answered[i], r.doing[i] = answered, 0
			}
		}
	}
}

func clashes(r *record, block, n int) bool {
	for i := block; i < block+n; i++ {
		if r.doing[i] != 0 {
			return true
		}
	}
	return false
}

func writeRequest(number uint64, block, n int) []byte {
	b := []byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, 1}
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(block)*BlockSize)
	b = binary.BigEndian.AppendUint32(b, uint32(n*BlockSize))
	return append(b, content(number, n*BlockSize/unit)...)
}

// checkAfterKill reads everything: each block has what was answered last, or what was under way. It returns how many were.
func checkAfterKill(t *testing.T, path string, r *record) (underWay int) {
	t.Helper()
	var seen events
	d, err := Open(path, Options{Checksums: true, Upkeep: -1, Notify: seen.add})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.closeFiles(); err != nil { // not Close: the next process finds it as after a kill, too
			t.Error(err)
		}
	}()
	p := make([]byte, BlockSize)
	for block := range r.answered {
		if _, err := d.ReadAt(p, int64(block)*BlockSize); err != nil {
			t.Fatalf("false alarm: %v", err)
		}
		for at := 0; at < BlockSize; at += 8 {
			got := binary.LittleEndian.Uint64(p[at:])
			if got != r.answered[block] && (r.doing[block] == 0 || got != r.doing[block]) {
				t.Fatalf("block %d has %d; %d was answered, %d was under way", block, got, r.answered[block], r.doing[block])
			}
		}
		if r.doing[block] != 0 {
			underWay++
			// From now on it is what is there; if the block is torn, so that both are possible, it is written whole next time.
			r.answered[block], r.doing[block] = binary.LittleEndian.Uint64(p), 0
			if _, err := d.WriteAt(content(r.answered[block]+1<<40, BlockSize/unit), int64(block)*BlockSize); err != nil {
				t.Fatal(err)
			}
			r.answered[block] += 1 << 40
		}
	}
	sound(t, d)
	if kinds := seen.kinds(); len(kinds) > 0 {
		t.Fatalf("events: %v", kinds)
	}
	return underWay
}
