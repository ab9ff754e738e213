package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/godwit-project/godwit/storage/disk/crashfs"
)

var (
	crashRuns = flag.Int("disk.runs", 60, "how many histories to try")
	crashSeed = flag.Uint64("disk.seed", 0, "try only this one")
)

const (
	unit      = 512 // what a number stands in
	crashSize = 96<<10 + 3*unit
)

// history is one life of a disk, with crashes. Each write has a number, and fills what it covers with it.
type history struct {
	rng    *rand.Rand
	fsys   *crashfs.FS
	opts   Options
	d      *Disk
	next   uint64
	trace  []string
	failed bool // stable storage has, by our doing

	now   []uint64   // what was answered, by unit
	since [][]uint64 // what it may be after a power loss: the value at the last answered Sync, and all later ones
	doing map[int]uint64
}

func TestWhateverCrashesWhatWasPromisedIsThere(t *testing.T) {
	for seed := uint64(1); seed <= uint64(*crashRuns); seed++ {
		if *crashSeed != 0 {
			seed = *crashSeed
		}
		h := &history{rng: rand.New(rand.NewPCG(seed, 7)), fsys: crashfs.New(seed)}
		if err := h.run(); err != nil {
			for _, line := range h.trace {
				t.Log(line)
			}
			t.Fatalf("history %d (repeat it with -disk.seed=%d): %v", seed, seed, err)
		}
		if *crashSeed != 0 {
			return
		}
	}
}

func (h *history) notef(format string, args ...any) {
	h.trace = append(h.trace, fmt.Sprintf(format, args...))
}

func (h *history) run() error {
	h.opts = Options{FS: h.fsys, Checksums: h.rng.IntN(8) > 0, Region: 16 << 10, Boot: 1, Upkeep: -1, Notify: func(e Event) { h.notef("  event %v", e) }}
	if err := Create("d", crashSize, h.opts); err != nil {
		return err
	}
	h.now, h.since = make([]uint64, crashSize/unit), make([][]uint64, crashSize/unit)
	for i := range h.since {
		h.since[i] = []uint64{0}
	}
	if err := h.open(); err != nil {
		return err
	}
	for range 1 + h.rng.IntN(6) {
		h.fsys.StopAt(h.rng.IntN(120))
		err := h.live()
		if !errors.Is(err, crashfs.ErrStopped) {
			return fmt.Errorf("before the crash: %w", err)
		}
		if err := h.crash(); err != nil {
			return err
		}
	}
	return h.rot()
}

// live uses the disk until it stops.
func (h *history) live() error {
	for {
		if err := h.stoppable(h.step); err != nil {
			return err
		}
	}
}

func (h *history) stoppable(do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if r != crashfs.ErrStopped { //nolint:errorlint // it is what was thrown
				panic(r)
			}
			err = crashfs.ErrStopped
		}
	}()
	return do()
}

func (h *history) open() error {
	d, err := Open("d", h.opts)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	h.d = d
	return nil
}

func (h *history) step() error {
	switch h.rng.IntN(20) {
	case 0, 1:
		return h.sync()
	case 2, 3:
		h.notef("upkeep")
		return h.d.Upkeep(context.Background())
	case 4:
		h.notef("close and open")
		if err := h.d.Close(); err != nil {
			return err
		}
		h.promised()
		return h.open()
	case 5, 6:
		return h.check(func(i int) []uint64 { return []uint64{h.now[i]} })
	case 7:
		report, err := h.verify()
		if err == nil && len(report.Bad) > 0 {
			err = fmt.Errorf("false alarm: %+v", report)
		}
		return err
	case 8, 9:
		return h.change(func(off, n int64, _ []byte) error { return h.d.Zero(off, n, h.rng.IntN(2) == 0) }, 0)
	case 10:
		return h.inTrouble()
	default:
		h.next++
		return h.change(func(_, off int64, p []byte) error {
			if h.rng.IntN(2) == 0 {
				if done, err := h.d.TryWriteAt(p, off); done || err != nil {
					return err
				}
			}
			_, err := h.d.WriteAt(p, off)
			return err
		}, h.next)
	}
}

func (h *history) verify() (Report, error) {
	if !h.opts.Checksums {
		return Report{}, nil
	}
	h.notef("verify")
	return h.d.Verify(context.Background(), 0, crashSize, nil)
}

func (h *history) sync() error {
	h.notef("sync")
	if err := h.d.Sync(); err != nil {
		return err
	}
	h.promised()
	return nil
}

// promised: what was answered survives everything from now on.
func (h *history) promised() {
	for i := range h.since {
		h.since[i] = []uint64{h.now[i]}
	}
}

// change makes one change of a random range, number being what it leaves there.
func (h *history) change(do func(a, b int64, p []byte) error, number uint64) error {
	off := h.rng.IntN(crashSize / unit)
	n := 1 + h.rng.IntN(min(40, crashSize/unit-off))
	if h.rng.IntN(2) == 0 {
		off, n = off/8*8, 8
		if off+n > crashSize/unit {
			n = crashSize/unit - off
		}
	}
	h.notef("put %d into %d+%d", number, off, n)
	h.doing = map[int]uint64{}
	for i := off; i < off+n; i++ {
		h.doing[i] = number
		h.since[i] = append(h.since[i], number)
	}
	var err error
	if number == 0 {
		err = do(int64(off)*unit, int64(n)*unit, nil)
	} else {
		err = do(0, int64(off)*unit, content(number, n))
	}
	if err != nil {
		return err
	}
	for i := range h.doing {
		h.now[i] = number
	}
	h.doing = nil
	return nil
}

func content(number uint64, n int) []byte {
	p := make([]byte, n*unit)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], number)
	}
	return p
}

// inTrouble changes something while the machine fails.
func (h *history) inTrouble() error {
	trouble := []string{"full", "write", "read", "sync"}[h.rng.IntN(4)]
	h.notef("trouble: %s", trouble)
	if trouble == "full" {
		h.fsys.SetRoom(int64(h.rng.IntN(8)) * unit)
	} else {
		h.fsys.Fail(func(op crashfs.Op) error {
			if op.Name == trouble && (op.Path == "d" || trouble == "sync") {
				return syscall.EIO
			}
			return nil
		})
	}
	// A process killed between a failed fdatasync and its note leaves a page cache that lies, and nobody who knows: not here.
	h.failed = trouble == "sync"
	var err error
	if h.failed {
		err = h.sync()
	} else {
		h.next++
		err = h.change(func(_, off int64, p []byte) error { _, err := h.d.WriteAt(p, off); return err }, h.next)
	}
	h.fsys.SetRoom(1 << 40)
	h.fsys.Fail(nil)
	switch {
	case err == nil:
		h.failed = false
		return nil
	case h.d.Failed() != nil:
		h.failed = true
		return h.stopNow()
	case !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC):
		return err
	}
	return h.afterFailure()
}

// stopNow dies at the next call: with stable storage failed, nothing can be promised before a power loss.
func (h *history) stopNow() error {
	h.fsys.StopAt(0)
	return h.check(func(i int) []uint64 { return []uint64{h.now[i]} })
}

// afterFailure reads what a failed change has left: the disk must be able to say it.
func (h *history) afterFailure() error {
	err := h.check(func(i int) []uint64 {
		if number, ok := h.doing[i]; ok {
			return []uint64{h.now[i], number}
		}
		return []uint64{h.now[i]}
	})
	if err == nil {
		h.doing = nil
	}
	return err
}

// check reads everything; each unit must have one of the values allowed for it, and has it from then on.
func (h *history) check(allowed func(i int) []uint64) error {
	h.notef("read all")
	p := make([]byte, crashSize)
	if h.rng.IntN(2) == 0 {
		for off := 0; off < crashSize; off += 24 * unit {
			part := p[off:min(off+24*unit, crashSize)]
			if _, err := h.d.ReadAt(part, int64(off)); err != nil {
				return fmt.Errorf("read: %w", err)
			}
		}
	} else if _, err := h.d.ReadAt(p, 0); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for i := range h.now {
		number := binary.LittleEndian.Uint64(p[i*unit:])
		if string(p[i*unit:i*unit+unit]) != string(content(number, 1)) {
			return fmt.Errorf("unit %d is torn", i)
		}
		if may := allowed(i); !slices.Contains(may, number) {
			return fmt.Errorf("unit %d has %d, it should be one of %v", i, number, may)
		}
		h.now[i] = number
	}
	return nil
}

// crash is what comes after the stop: another process, or another life of the machine; it may stop again meanwhile.
func (h *history) crash() error {
	for {
		lost := h.failed || h.rng.IntN(2) == 0
		if lost {
			h.notef("power loss")
			h.fsys = h.fsys.AfterPowerLoss()
			h.opts.Boot++
		} else {
			h.notef("kill")
			h.fsys = h.fsys.AfterKill()
		}
		h.fsys.SetRoom(1 << 40)
		h.opts.FS = h.fsys
		doing := h.doing
		if h.rng.IntN(4) == 0 {
			h.fsys.StopAt(h.rng.IntN(30))
		}
		err := h.stoppable(func() error {
			if err := h.open(); err != nil {
				return err
			}
			if h.failed { // the operator has looked
				h.failed = false
				if err := h.d.ClearFailure(); err != nil {
					return err
				}
			}
			return h.check(func(i int) []uint64 {
				if number, ok := doing[i]; ok && !lost {
					return []uint64{h.now[i], number}
				} else if lost {
					return h.since[i]
				}
				return []uint64{h.now[i]}
			})
		})
		if errors.Is(err, crashfs.ErrStopped) {
			if lost {
				h.settle()
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("after the crash: %w", err)
		}
		h.doing = nil
		if lost {
			h.promised()
		}
		h.fsys.StopAt(-1)
		return nil
	}
}

// settle is for a machine that died again before anybody could look at what the first power loss had left: any of it may be.
func (h *history) settle() {
	h.doing = map[int]uint64{}
	p := make([]byte, crashSize)
	f, err := h.fsys.AfterKill().Open("d", 0)
	if err == nil {
		_, err = f.ReadAt(p, 0)
	}
	if err != nil {
		return
	}
	for i := range h.now {
		number := binary.LittleEndian.Uint64(p[i*unit:])
		if slices.Contains(h.since[i], number) {
			h.now[i] = number
		}
	}
}

// rot flips a bit where everything is verified, and wants to be told where.
func (h *history) rot() error {
	if !h.opts.Checksums {
		return nil
	}
	for range 3 {
		if err := h.d.Upkeep(context.Background()); err != nil {
			return err
		}
	}
	block := h.rng.Int64N(blocksIn(crashSize))
	off := min(block*BlockSize+h.rng.Int64N(BlockSize), crashSize-1)
	h.notef("flip a bit at %d", off)
	lost := h.rng.IntN(2) == 0
	if lost { // also after a power loss: nobody was writing there
		h.fsys = h.fsys.AfterPowerLoss()
		h.opts.Boot++
	} else {
		h.fsys = h.fsys.AfterKill()
	}
	h.fsys.Corrupt("d", off)
	h.opts.FS = h.fsys
	if err := h.open(); err != nil {
		return err
	}
	report, err := h.verify()
	want := []Range{{block * BlockSize, min(BlockSize, crashSize-block*BlockSize)}}
	if err != nil || !slices.Equal(report.Bad, want) || len(report.Unverified) > 0 {
		return fmt.Errorf("a flipped bit at %d: %+v, %w", off, report, err)
	}
	return nil
}
