package network

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	holdPackets = 8192
	holdBytes   = 16 << 20
	// holdMTU lets every packet in that came in anywhere: what is too big for the tunnel is answered when it is let go.
	holdMTU = 65535

	// A queue is let go in portions, which makes some 1 Gbit/s or 100,000 packets a second.
	pacePackets = 48
	paceBytes   = 128 << 10
	paceEvery   = time.Millisecond
	paceLimit   = 250 * time.Millisecond
)

// packetQueue is a bounded first-in-first-out; beyond the bounds the oldest go, as a client has most likely already
// sent those again.
type packetQueue struct {
	packets    [][]byte
	bytes      int
	dropped    uint64
	maxPackets int
	maxBytes   int
}

func (q *packetQueue) push(p []byte) {
	q.packets = append(q.packets, append([]byte(nil), p...))
	q.bytes += len(p)
	for len(q.packets) > q.maxPackets || q.bytes > q.maxBytes {
		q.pop()
		q.dropped++
	}
}

func (q *packetQueue) pop() []byte {
	if len(q.packets) == 0 {
		return nil
	}
	p := q.packets[0]
	q.packets[0] = nil
	q.packets = q.packets[1:]
	q.bytes -= len(p)
	return p
}

// hold is a persistent TUN device and its reader. Packets routed to the device are queued until letGo; from then on
// whatever still arrives is written straight back. A packet that is written back enters the kernel as received on
// the device, where the policy rule `iif DEVICE lookup TABLE` sends it on: the table says where the hold lets go to.
type hold struct {
	device string
	file   *os.File
	raw    syscall.RawConn
	reader sync.WaitGroup

	mu      sync.Mutex
	queue   packetQueue
	passing bool
	failed  uint64 // packets that the kernel did not take back
	buffer  []byte
}

// openHold creates or reopens the device. It leaves the device down; see the caller for why.
func openHold(device string, passing bool) (*hold, error) {
	file, err := openTun(device, unix.IFF_TUN|unix.IFF_NO_PI)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network: hold device %s: %w", device, err), file.Close())
	}
	return &hold{
		device: device, file: file, raw: raw, passing: passing,
		queue:  packetQueue{maxPackets: holdPackets, maxBytes: holdBytes},
		buffer: make([]byte, holdMTU),
	}, nil
}

// start begins to read; close waits for the reader. A device is readable only while it is up.
func (h *hold) start() {
	h.reader.Go(func() {
		h.raw.Read(func(fd uintptr) bool { //nolint:errcheck // ends with an error when the file is closed, and only then
			for h.drain(int(fd)) == holdPackets {
			}
			return false // not done: wait until there is more
		})
	})
}

func (h *hold) drain(fd int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.drainLocked(fd)
}

// drainLocked takes what the kernel has for us, holdPackets at most, so that a flood cannot keep the lock. It reads
// only under the lock, so that no packet is between the kernel and the queue when letGo looks.
func (h *hold) drainLocked(fd int) (taken int) {
	for taken < holdPackets {
		n, err := unix.Read(fd, h.buffer)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return taken
		}
		taken++
		if h.passing {
			h.sendLocked(fd, h.buffer[:n])
		} else {
			h.queue.push(h.buffer[:n])
		}
	}
	return taken
}

func (h *hold) sendLocked(fd int, p []byte) {
	for {
		_, err := unix.Write(fd, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			h.failed++
		}
		return
	}
}

// letGo writes the queue back in order, then calls turn, which takes the main route away from the device, and passes
// what arrived meanwhile. Packets that come in after turn go the new way by themselves, behind all of these.
//
// The queue is paced, since queues on the way (a tap has one of 500 packets by default) would drop a burst of
// thousands. What arrives meanwhile queues up behind; if that does not come to an end in paceLimit, pacing ends.
func (h *hold) letGo(turn func() error) error {
	var turned error
	err := h.raw.Control(func(fd uintptr) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for start := time.Now(); h.sendSomeLocked(int(fd)) && time.Since(start) < paceLimit; {
			h.mu.Unlock()
			time.Sleep(paceEvery)
			h.mu.Lock()
		}
		for p := h.queue.pop(); p != nil; p = h.queue.pop() {
			h.sendLocked(int(fd), p)
		}
		h.passing = true
		h.drainLocked(int(fd))
		// The reader passes on meanwhile: what waited here for the route to turn would be overtaken on the new way.
		h.mu.Unlock()
		turned = turn()
		h.mu.Lock()
		h.drainLocked(int(fd))
	})
	if err != nil {
		return fmt.Errorf("network: hold device %s: %w", h.device, err)
	}
	return turned
}

// sendSomeLocked writes a portion of the queue back, takes in what the kernel has, and says whether there is more.
func (h *hold) sendSomeLocked(fd int) bool {
	for packets, bytes := 0, 0; packets < pacePackets && bytes < paceBytes; packets++ {
		p := h.queue.pop()
		if p == nil {
			break
		}
		h.sendLocked(fd, p)
		bytes += len(p)
	}
	h.drainLocked(fd)
	return len(h.queue.packets) > 0
}

// counts returns the packets in the queue and those lost to its bounds or refused by the kernel.
func (h *hold) counts() (held int, dropped uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.queue.packets), h.queue.dropped + h.failed
}

// close ends the reader; the device stays.
func (h *hold) close() error {
	err := h.file.Close()
	h.reader.Wait()
	if err != nil {
		return fmt.Errorf("network: close hold device %s: %w", h.device, err)
	}
	return nil
}
