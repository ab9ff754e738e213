package disk

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

const failedSuffix = ".failed"

// groupSync makes many callers share one run of do: whoever comes while one runs waits for the next.
type groupSync struct {
	do       func() error
	mu       sync.Mutex
	running  chan struct{} // closed when the run under way ends; nil when there is none
	started  uint64
	finished uint64
	failedAt uint64
	err      error
}

// sync returns when do has run, begun after the call.
func (g *groupSync) sync() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	want := g.started + 1
	for g.finished < want {
		if running := g.running; running != nil {
			g.mu.Unlock()
			<-running
			g.mu.Lock()
			continue
		}
		g.run()
	}
	if g.failedAt >= want {
		return g.err
	}
	return nil
}

// run gives the lock away meanwhile.
func (g *groupSync) run() {
	done := make(chan struct{})
	g.running = done
	g.started++
	mine := g.started
	g.mu.Unlock()
	var err error
	defer func() {
		g.mu.Lock()
		g.running = nil
		g.finished = mine
		if err != nil {
			g.failedAt, g.err = mine, err
		}
		close(done)
	}()
	err = g.do()
}

// Sync returns when every write that was answered before the call is on stable storage. If it fails, the disk has failed.
func (d *Disk) Sync() error {
	switch {
	case d.fenced.Load():
		return ErrFenced
	case d.failed.Load() != nil:
		return ErrFailed
	case d.opts.ReadOnly:
		return nil
	}
	if err := d.flush.sync(); err != nil {
		return d.fail(err)
	}
	return nil
}

// StartSync begins what Sync will wait for, where that can be done.
func (d *Disk) StartSync() {
	if f, ok := d.file.(vfs.Starter); ok && d.failed.Load() == nil && !d.fenced.Load() {
		f.StartSync()
	}
}

// fail is the end of writing: after a failed fdatasync the kernel has forgotten what was not written, and says so only once.
func (d *Disk) fail(cause error) error {
	why := cause.Error()
	if d.failed.CompareAndSwap(nil, &why) {
		text := fmt.Appendf(nil, "%s: %s\nThe disk takes no writes until it has been looked at.\n", time.Now().UTC().Format(time.RFC3339), why)
		noted := vfs.Replace(d.fs, d.opts.beside(d.path, failedSuffix), text) // may well fail on a disk that just did
		d.report(EventFailed, 0, 0, errors.Join(cause, noted))
	}
	return fmt.Errorf("%w: %w", ErrFailed, cause)
}

// Failed says whether, and why, the disk takes no more writes.
func (d *Disk) Failed() error {
	if why := d.failed.Load(); why != nil {
		return fmt.Errorf("%w: %s", ErrFailed, *why)
	}
	return nil
}

// loadFailure finds out whether the disk failed in an earlier life.
func (d *Disk) loadFailure() error {
	text, err := vfs.ReadFile(d.fs, d.opts.beside(d.path, failedSuffix))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	why := string(text)
	d.failed.Store(&why)
	return nil
}

// ClearFailure lets a failed disk be written again, when an operator has found it good, or lost what it lost.
func (d *Disk) ClearFailure() error {
	if d.failed.Load() == nil {
		return nil
	}
	if err := d.fs.Remove(d.opts.beside(d.path, failedSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clear the failure of disk %s: %w", d.path, err)
	}
	d.failed.Store(nil)
	return nil
}
