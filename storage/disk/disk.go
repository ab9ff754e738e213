// Package disk is the backing store of a volume: a raw file or block device, plain enough to be used without us, and beside it,
// if wanted, a sidecar with a checksum of each 4 KiB block. It promises what a good disk array does:
//
//   - A write that was answered is at least in the host's page cache, so that a killed process loses none; after [Disk.Sync] it
//     is on stable storage. Overlapping writes have one order.
//   - With checksums, a read returns what was written or fails with [ErrCorrupt]. After a killed process all blocks are
//     verified; after a power loss all but those of regions that were being written, which are read anew and verified from then on.
//   - A read or write that fails, fails alone. When stable storage itself has failed, the disk takes no more writes, also not
//     after a restart, until an operator has looked ([Disk.ClearFailure]): what is lost then is unknown.
//   - An external disk, reachable from several sites, is used under a lease with an epoch, and given up when a newer one appears.
//
// What may not enter: volumes, roles, replication, and who may read what.
package disk

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

var (
	// ErrCorrupt means that the content is not what was written. It is an EIO to those who ask.
	ErrCorrupt = fmt.Errorf("content does not match its checksum: %w", syscall.EIO)
	// ErrFailed means that stable storage has failed and nothing more is written. It is an EIO to those who ask.
	ErrFailed = fmt.Errorf("disk has failed: %w", syscall.EIO)
	// ErrReadOnly means that the disk was opened for reading.
	ErrReadOnly = fmt.Errorf("disk is read-only: %w", syscall.EROFS)
	// ErrFenced means that somebody with a newer epoch has the disk.
	ErrFenced = errors.New("disk belongs to a newer epoch")
	// ErrSidecar means that the checksums cannot be read or written. It is an EIO to those who ask.
	ErrSidecar = fmt.Errorf("checksums cannot be reached: %w", syscall.EIO)
)

// BlockSize is what one checksum covers, in bytes.
const BlockSize = 4096

// Options of a disk. The zero value is good for a plain file.
type Options struct {
	// FS is where the files are; the machine's when nil.
	FS       vfs.FS
	ReadOnly bool
	// Checksums keeps and verifies them. A disk without a sidecar gets one, with all that it contains taken as it is.
	Checksums bool
	// State is the path, without its ending, of what is kept beside the disk: .sums, .failed, .lease. The disk's own when empty;
	// a block device needs another.
	State string
	// Size is how much of a block device the disk is, from its beginning, in bytes: all of it when zero. Of a file it is zero.
	Size int64
	// Region is what one mark of being written to covers, in bytes, when a sidecar is made; by size when zero.
	Region int64
	// Boot tells one life of the machine from another; the kernel's when zero.
	Boot uint64
	// Lease, when set, is held while the disk is open: see [Lease].
	Lease *Lease
	// Notify is told what an operator should know. It must return soon, and may be called from several goroutines.
	Notify func(Event)
	// Upkeep is the pause between rounds of [Disk.Upkeep], 5 s when zero; when negative the caller does them.
	Upkeep time.Duration
}

// Disk is an open disk. Methods may be called from several goroutines at once; none after Close.
type Disk struct {
	path  string
	opts  Options
	fs    vfs.FS
	file  vfs.File
	quick vfs.Prompt // nil if the file is none
	// device: of fixed size, nothing to be known of holes.
	device bool
	size   atomic.Int64
	sums   *sidecar // nil without checksums
	held   *holds
	flush  groupSync

	failed atomic.Pointer[string]
	fenced atomic.Bool

	stop chan struct{}
	wg   sync.WaitGroup
}

// Create makes an empty, sparse disk of that size; with checksums, its sidecar too. It fails if there is a file already.
func Create(path string, size int64, opts Options) error {
	fsys := opts.fileSystem()
	f, err := fsys.Open(path, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	if err == nil && opts.Checksums {
		err = makeSidecar(fsys, opts.beside(path, sumsSuffix), size, opts.Region, false)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = fsys.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("create disk %s: %w", path, err)
	}
	return nil
}

// Open opens a disk for this process alone (for reading: together with other readers). What a crash has left is put in order
// first, as far as that is quick; [Disk.Upkeep] does the rest while the disk is in use.
func Open(path string, opts Options) (*Disk, error) {
	d := &Disk{path: path, opts: opts, fs: opts.fileSystem(), held: newHolds(), stop: make(chan struct{})}
	if d.opts.Notify == nil {
		d.opts.Notify = func(Event) {}
	}
	if d.opts.Boot == 0 {
		d.opts.Boot = bootID()
	}
	d.flush.do = func() error { return d.file.Sync() }
	if err := d.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open disk %s: %w", path, err), d.closeFiles())
	}
	if interval := cmp.Or(opts.Upkeep, 5*time.Second); interval > 0 && !opts.ReadOnly {
		d.wg.Go(func() { d.keep(interval) })
	}
	return d, nil
}

func (o Options) fileSystem() vfs.FS {
	if o.FS == nil {
		return vfs.OS{}
	}
	return o.FS
}

// beside is the path of a file that belongs to the disk at path.
func (o Options) beside(path, suffix string) string { return cmp.Or(o.State, path) + suffix }

func (d *Disk) open() error {
	if err := d.takeLease(); err != nil {
		return err
	}
	flag := os.O_RDWR
	if d.opts.ReadOnly {
		flag = os.O_RDONLY
	}
	var err error
	if d.file, err = d.fs.Open(d.path, flag); err != nil {
		return err
	}
	if err := d.file.Lock(d.opts.ReadOnly); err != nil {
		return err
	}
	info, err := d.file.Info()
	if err != nil {
		return err
	}
	d.device = info.Device
	if d.opts.Size != 0 {
		if !d.device || info.Size < d.opts.Size {
			return fmt.Errorf("it has %d bytes, want a block device of at least %d", info.Size, d.opts.Size)
		}
		info.Size = d.opts.Size
	}
	d.size.Store(info.Size)
	d.quick, _ = d.file.(vfs.Prompt)
	if err := d.loadFailure(); err != nil {
		return err
	}
	if !d.opts.Checksums {
		return nil
	}
	return d.openSidecar(info)
}

// Path is where the disk is.
func (d *Disk) Path() string { return d.path }

// Size is in bytes.
func (d *Disk) Size() int64 { return d.size.Load() }

// Allocated is what the disk occupies, in bytes; 0 if that cannot be told.
func (d *Disk) Allocated() int64 {
	info, err := d.file.Info()
	if err != nil {
		return 0
	}
	return info.Allocated
}

// NextData finds the first run of data at or after off; ok is false when the rest is a hole.
func (d *Disk) NextData(off int64) (start, end int64, ok bool, err error) {
	start, end, ok, err = d.file.NextData(off)
	return start, min(end, d.Size()), ok && start < d.Size(), err
}

// Zeroes is how much from off on, the beginning of a block, is zeroes, written or never written, at most most bytes and in whole
// blocks, as far as the checksums tell; known is false if they do not tell of the first block. Nobody may be writing there. It asks
// no file system, which may need long to find the end of a hole or of data, and keeps writers waiting meanwhile.
func (d *Disk) Zeroes(off, most int64) (n int64, known bool, err error) {
	if d.sums == nil || d.inside(off, most) != nil {
		return 0, false, nil
	}
	first, end := d.blocks(off, most)
	blocks, known, err := d.sums.zeroes(first, end)
	return min(blocks*BlockSize, most), known, err
}

// Resize changes the size. Nothing else may use the disk meanwhile. What is added reads as zeroes, what is cut off is gone.
func (d *Disk) Resize(size int64) error {
	err := d.writable()
	if err == nil && d.device {
		err = d.deviceHas(size)
	}
	if err == nil && d.sums != nil {
		err = d.growSums(size)
	}
	switch {
	case err != nil:
	case d.device:
		err = d.zero(d.Size(), size-d.Size(), true, true) // others may have left something there
	default:
		err = d.file.Truncate(size)
	}
	if err == nil {
		old := d.size.Swap(size)
		err = d.Sync()
		if err == nil && d.sums != nil {
			err = d.fitSums(old)
		}
	}
	if err != nil {
		return fmt.Errorf("resize disk %s to %d bytes: %w", d.path, size, err)
	}
	return nil
}

// deviceHas says why the disk cannot be more of its block device.
func (d *Disk) deviceHas(size int64) error {
	info, err := d.file.Info()
	switch {
	case err != nil:
		return err
	case d.opts.Size == 0 || size < d.Size():
		return errors.New("a block device is resized by those who made it")
	case info.Size < size:
		return fmt.Errorf("the block device has %d bytes: it has to be made larger first", info.Size)
	}
	return nil
}

// writable says why the disk takes no writes.
func (d *Disk) writable() error {
	switch {
	case d.fenced.Load():
		return ErrFenced
	case d.opts.ReadOnly:
		return ErrReadOnly
	case d.failed.Load() != nil:
		return ErrFailed
	default:
		return nil
	}
}

// Close makes everything durable and closes the disk.
func (d *Disk) Close() error {
	close(d.stop)
	d.wg.Wait()
	var err error
	if d.writable() == nil {
		err = d.Sync()
		if err == nil && d.sums != nil {
			err = d.closeSums()
		}
	}
	return errors.Join(err, d.closeFiles())
}

// Abandon closes a disk that is not needed any more, and makes nothing durable: as a killed process would.
func (d *Disk) Abandon() error {
	close(d.stop)
	d.wg.Wait()
	return d.closeFiles()
}

func (d *Disk) closeFiles() error {
	var errs []error
	if d.sums != nil {
		errs = append(errs, d.sums.file.Close())
	}
	if d.file != nil {
		errs = append(errs, d.file.Close())
	}
	return errors.Join(errs...)
}
