package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/godwit-project/godwit/storage/disk/vfs"
)

const leaseSuffix = ".lease"

// Lease says who may use an external disk, one that several sites can reach: the holder with the highest epoch. It is asked for at
// Open, looked at again at every [Disk.Upkeep], and lost for good when a newer one appears.
//
// Between two looks an old holder may still write: whoever takes a lease over must know that the old holder has ended, or wait for
// longer than its pause between rounds of upkeep, or use a Fencer that stops it (a reservation of the storage itself).
type Lease struct {
	// Holder names the user of the disk: the site.
	Holder string
	Epoch  uint64
	// Fencer enforces it; a file beside the disk when nil.
	Fencer Fencer
}

// Fencer enforces leases of one disk.
type Fencer interface {
	// Take makes holder the only user, durably, or fails with [ErrFenced] if there is one with a higher epoch, or another one with
	// the same. Taking what one has is a success.
	Take(holder string, epoch uint64) error
	// Check fails with [ErrFenced] when somebody else has taken it since.
	Check(holder string, epoch uint64) error
}

// FileFencer keeps the lease in a file that all sites can reach.
type FileFencer struct {
	FS   vfs.FS
	Path string
}

// leaseRecord is the file's content.
type leaseRecord struct {
	Holder string `json:"holder"`
	Epoch  uint64 `json:"epoch"`
}

// Take writes the lease.
func (f FileFencer) Take(holder string, epoch uint64) error {
	now, err := f.load()
	if errors.Is(err, os.ErrNotExist) {
		now, err = leaseRecord{}, nil
	}
	if err != nil {
		return fmt.Errorf("take lease: %w", err)
	}
	mine := leaseRecord{Holder: holder, Epoch: epoch}
	switch {
	case now == mine:
		return nil
	case now.Epoch > epoch, now.Epoch == epoch && now.Holder != "":
		return now.refuse(mine)
	}
	b, err := json.Marshal(mine)
	if err == nil {
		err = vfs.Replace(f.FS, f.Path, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("take lease: %w", err)
	}
	return f.Check(holder, epoch) // of two that come at once, one is overwritten
}

// Check reads the lease.
func (f FileFencer) Check(holder string, epoch uint64) error {
	now, err := f.load()
	if err != nil {
		return fmt.Errorf("check lease: %w", err)
	}
	if mine := (leaseRecord{Holder: holder, Epoch: epoch}); now != mine {
		return now.refuse(mine)
	}
	return nil
}

func (f FileFencer) load() (r leaseRecord, err error) {
	b, err := vfs.ReadFile(f.FS, f.Path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read %s: %w", f.Path, err)
	}
	return r, nil
}

func (r leaseRecord) refuse(mine leaseRecord) error {
	return fmt.Errorf("%w: %s has it with epoch %d, %s asks with %d", ErrFenced, r.Holder, r.Epoch, mine.Holder, mine.Epoch)
}

// takeLease is the first thing that is done with an external disk.
func (d *Disk) takeLease() error {
	if d.opts.Lease == nil {
		return nil
	}
	l := *d.opts.Lease
	if l.Holder == "" || l.Epoch == 0 {
		return errors.New("a lease needs a holder and an epoch")
	}
	if l.Fencer == nil {
		l.Fencer = FileFencer{FS: d.fs, Path: d.opts.beside(d.path, leaseSuffix)}
	}
	d.opts.Lease = &l
	return l.Fencer.Take(l.Holder, l.Epoch)
}

func (l *Lease) check() error { return l.Fencer.Check(l.Holder, l.Epoch) }
