// Package memcheck makes sure that a machine which was handed over has the memory that its source stopped with, whatever the
// platform believes to have sent: both ends hash what they have, and the destination takes what differs from the source.
//
// It exists because an emulator's account of changed memory can be wrong (measured with QEMU 7.2 under TCG: a handful of
// pages in one handover of several, and a guest kernel that died of it; see server/DESIGN.md). It costs a pass over the
// memory at both ends, at the same time, inside the blackout; so it is for platforms that ask for it.
//
// One connection, source to destination, all numbers big endian:
//
//	source       "GWC2", uint64 size of the memory, then one uint64 XXH3 hash for each region of 64 KiB
//	destination  uint32 number of a region that differs, and the hashes of its 16 pages, any number of times; 0xffffffff at the end
//	source       for each number, in order: uint16, a bit for each page that differs (page 0 is bit 0), then those pages
//
// Pages, not regions, are sent again: a few of them fit into what a connection that has been idle may send at once.
//
// What may not enter: where memory comes from, and what a machine is.
package memcheck

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"

	"github.com/zeebo/xxh3"
)

const (
	// Region is the unit that is hashed and sent again, in bytes. Memory is a multiple of it.
	Region = 64 << 10
	page   = 4 << 10
	pages  = Region / page
	magic  = "GWC2"
	end    = ^uint32(0)
)

// Errors of a check.
var (
	// ErrProtocol means that the other end does not speak this, or not as it should.
	ErrProtocol = errors.New("memory check: unexpected answer of the other end")
	// ErrDiffers means that the memories still differ after what differed was sent again: one of the machines runs.
	ErrDiffers = errors.New("memory check: the memories still differ after repair")
)

// Memory is the memory of a machine that does not run.
type Memory interface {
	// Bytes is all of it; at the destination it can be written.
	Bytes() []byte
	// Touched reports whether anything was ever written to the region at that offset. What was not is zero, and is not
	// read, because reading would make the kernel provide it.
	Touched() ([]bool, error)
}

// Hashes of all regions, in order.
func hashes(m Memory) ([]uint64, error) {
	touched, err := m.Touched()
	if err != nil {
		return nil, fmt.Errorf("memory check: %w", err)
	}
	all, data := make([]uint64, len(touched)), m.Bytes()
	if len(data) != len(touched)*Region {
		return nil, fmt.Errorf("memory check: %d bytes are not %d regions of %d", len(data), len(touched), Region)
	}
	zero := xxh3.Hash(make([]byte, Region))
	// All processors: the guest that would want one does not run.
	var workers sync.WaitGroup
	n := runtime.GOMAXPROCS(0)
	for w := range n {
		workers.Go(func() {
			for i := w; i < len(all); i += n {
				all[i] = zero
				if touched[i] {
					all[i] = xxh3.Hash(data[i*Region : (i+1)*Region])
				}
			}
		})
	}
	workers.Wait()
	return all, nil
}

// Offer is the source's end: it sends the hashes, then the regions that are asked for, until the destination is content.
// The machine must not run until it has returned. It closes conn.
func Offer(ctx context.Context, conn net.Conn, m Memory) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	own, err := hashes(m)
	if err != nil {
		return err
	}
	out := append(make([]byte, 0, len(magic)+8+8*len(own)), magic...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(m.Bytes())))
	for _, h := range own {
		out = binary.BigEndian.AppendUint64(out, h)
	}
	if _, err := conn.Write(out); err != nil {
		return fmt.Errorf("memory check: send hashes: %w", err)
	}
	for {
		var ask [4]byte
		if _, err := io.ReadFull(conn, ask[:]); err != nil {
			return fmt.Errorf("memory check: wait for the destination: %w", err)
		}
		n := binary.BigEndian.Uint32(ask[:])
		if n == end {
			return nil
		}
		if int(n) >= len(own) {
			return fmt.Errorf("%w: region %d of %d", ErrProtocol, n, len(own))
		}
		if out, err = answer(out[:0], conn, m.Bytes()[int(n)*Region:(int(n)+1)*Region]); err == nil {
			_, err = conn.Write(out)
		}
		if err != nil {
			return fmt.Errorf("memory check: send region %d: %w", n, err)
		}
	}
}

// answer appends to out what the destination lacks of a region, by the hashes that it sends of its own pages.
func answer(out []byte, from io.Reader, region []byte) ([]byte, error) {
	var theirs [8 * pages]byte
	if _, err := io.ReadFull(from, theirs[:]); err != nil {
		return nil, err
	}
	out = append(out, 0, 0)
	var differing uint16
	for i := range pages {
		own := region[i*page : (i+1)*page]
		if xxh3.Hash(own) != binary.BigEndian.Uint64(theirs[8*i:]) {
			differing |= 1 << i
			out = append(out, own...)
		}
	}
	binary.BigEndian.PutUint16(out, differing)
	return out, nil
}

// Repair is the destination's end: it compares, takes what differs, and returns the number of pages (4 KiB) that did. When
// it returns without error the memories are equal. The machine must have loaded, and must not run. It closes conn.
func Repair(ctx context.Context, conn net.Conn, m Memory) (mended int, err error) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	own, err := hashes(m)
	if err != nil {
		return 0, err
	}
	in := bufio.NewReaderSize(conn, Region)
	theirs, err := readHashes(in, len(own))
	if err != nil {
		return 0, err
	}
	var differing []int
	var ask []byte
	for i := range own {
		if own[i] != theirs[i] {
			differing = append(differing, i)
			ask = binary.BigEndian.AppendUint32(ask, uint32(i))
			for at := i * Region; at < (i+1)*Region; at += page {
				ask = binary.BigEndian.AppendUint64(ask, xxh3.Hash(m.Bytes()[at:at+page]))
			}
		}
	}
	// The source answers while it reads, so the questions are sent beside the reading of the answers.
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(ask)
		sent <- err
	}()
	for _, i := range differing {
		var n int
		region := m.Bytes()[i*Region : (i+1)*Region]
		if n, err = mend(region, in); err != nil {
			err = fmt.Errorf("memory check: receive region %d: %w", i, err)
			break
		}
		if xxh3.Hash(region) != theirs[i] {
			err = fmt.Errorf("region %d: %w", i, ErrDiffers)
			break
		}
		mended += n
	}
	if err != nil {
		_ = conn.Close()
	}
	if err := errors.Join(err, <-sent); err != nil {
		return mended, err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, end)); err != nil {
		return mended, fmt.Errorf("memory check: tell the source: %w", err)
	}
	return mended, nil
}

func readHashes(in io.Reader, want int) ([]uint64, error) {
	head := make([]byte, len(magic)+8)
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, fmt.Errorf("memory check: receive hashes: %w", err)
	}
	if string(head[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it begins with %q", ErrProtocol, head[:len(magic)])
	}
	if size := binary.BigEndian.Uint64(head[len(magic):]); size != uint64(want)*Region {
		return nil, fmt.Errorf("%w: its memory has %d bytes, ours %d", ErrProtocol, size, want*Region)
	}
	raw := make([]byte, 8*want)
	if _, err := io.ReadFull(in, raw); err != nil {
		return nil, fmt.Errorf("memory check: receive hashes: %w", err)
	}
	all := make([]uint64, want)
	for i := range all {
		all[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
	return all, nil
}

// mend puts an answer into a region, and returns how many pages that were.
func mend(region []byte, from io.Reader) (mended int, err error) {
	var head [2]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return 0, err
	}
	differing := binary.BigEndian.Uint16(head[:])
	for i := range pages {
		if differing&(1<<i) == 0 {
			continue
		}
		if _, err := io.ReadFull(from, region[i*page:(i+1)*page]); err != nil {
			return mended, err
		}
		mended++
	}
	return mended, nil
}
