package journal

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	logPrefix = "log-"
	// writeBuffer is how much is gathered for one write, in bytes, and writeDirect what is worth a write of its own.
	writeBuffer = 1 << 20
	writeDirect = 64 << 10
)

// sizes are in bytes.
type sizes struct {
	// file is when the next epoch begins another file. An epoch never spans two.
	file int64
	// spare bounds what is kept of a file for being written again, which syncs faster than a growing one, and takes a fifth less of the
	// standby's processor time; idle does so when nothing comes.
	spare, idle int64
	// checkpoint is how much is applied before the disks are synced and files given back.
	checkpoint int64
}

func usualSizes() sizes {
	return sizes{file: 64 << 20, spare: 512 << 20, idle: 128 << 20, checkpoint: 32 << 20}
}

// epochAt is a committed epoch in the log that is not applied yet.
type epochAt struct {
	number uint64
	at     time.Time
	file   *logFile
	start  int64
	before uint64 // checksum of the record before it
	bytes  int64
}

type logFile struct {
	File
	name string
	seq  uint64
	last uint64 // the last epoch committed in it
}

// log is where epochs are written. It is used by one goroutine at a time, except that files are read meanwhile.
type log struct {
	dir   FS
	sizes sizes
	files []*logFile // oldest first; the last is written
	spare *logFile
	next  uint64 // the number of the next file

	buf     []byte // to be written at flushed
	flushed int64
	started int64 // a sync was begun of what was written before
	sum     uint64

	// where the epoch under way began
	start    int64
	startSum uint64
	records  int64
}

func logName(seq uint64) string { return fmt.Sprintf("%s%016x", logPrefix, seq) }

// scan opens the files and finds the committed epochs after applied, in order.
func (l *log) scan(applied uint64) (epochs []epochAt, err error) {
	names, err := l.dir.List()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	last := uint64(0)
	for _, name := range names {
		hex, ok := strings.CutPrefix(name, logPrefix)
		if !ok {
			continue
		}
		seq, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			continue
		}
		f, err := l.dir.Open(name, false)
		if err != nil {
			return nil, err
		}
		file := &logFile{File: f, name: name, seq: seq}
		l.files = append(l.files, file)
		l.next = seq + 1
		found, start, err := file.scan()
		if err == nil {
			err = f.Sync() // a commit whose sync was interrupted counts from here on
		}
		if err != nil {
			return nil, err
		}
		if start == nil {
			continue // made, and never written durably
		}
		if *start > max(last, applied) {
			return nil, fmt.Errorf("%w: %s follows epoch %d, but the log ends at %d", ErrDamaged, name, *start, last)
		}
		for _, e := range found {
			// A spare file that had its new name already, and nothing of its new content, holds what is applied.
			last = max(last, e.number)
			if e.number > applied {
				epochs = append(epochs, e)
			}
		}
	}
	return epochs, nil
}

// scan reads a file as far as it is valid.
func (f *logFile) scan() (epochs []epochAt, start *uint64, err error) {
	r := reader{f: f}
	first, _, err := r.next()
	if errors.Is(err, ErrDamaged) || err == nil && first.kind != kindStart {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	f.last = first.epoch
	e := epochAt{file: f, start: r.pos, before: r.sum}
	records := int64(0)
	for {
		rec, _, err := r.next()
		if errors.Is(err, ErrDamaged) {
			return epochs, &first.epoch, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if rec.kind != kindCommit {
			records++
			continue
		}
		if rec.length != records || rec.epoch <= f.last {
			return nil, nil, fmt.Errorf("%w: %s: epoch %d of %d records after %d", ErrDamaged, f.name, rec.epoch, records, f.last)
		}
		e.number, e.at, e.bytes = rec.epoch, time.Unix(0, rec.off), r.pos-e.start
		epochs = append(epochs, e)
		f.last = rec.epoch
		e = epochAt{file: f, start: r.pos, before: r.sum}
		records = 0
	}
}

// full says that the next epoch begins another file. The writer alone may ask.
func (l *log) full() bool { return len(l.files) == 0 || l.sum == 0 || l.flushed >= l.sizes.file }

// begin makes ready for an epoch; committed is the one before.
func (l *log) begin(committed uint64) error {
	if l.full() {
		if err := l.addFile(committed); err != nil {
			return err
		}
	}
	l.start, l.startSum, l.records = l.flushed+int64(len(l.buf)), l.sum, 0
	return nil
}

// addFile begins another file. Its name is durable before anything in it can matter.
func (l *log) addFile(committed uint64) error {
	name := logName(l.next)
	f := l.spare
	if f != nil {
		if err := l.dir.Rename(f.name, name); err != nil {
			return err
		}
		l.spare = nil
	} else {
		opened, err := l.dir.Open(name, true)
		if err != nil {
			return err
		}
		f = &logFile{File: opened}
	}
	f.name, f.seq, f.last = name, l.next, committed
	l.files = append(l.files, f)
	l.next++
	if err := l.dir.Sync(); err != nil {
		return err
	}
	l.buf, l.flushed, l.started, l.sum = l.buf[:0], 0, 0, 0
	return l.append(&record{kind: kindStart, epoch: committed, off: int64(rand.Uint64() >> 1)}, nil)
}

func (l *log) current() *logFile { return l.files[len(l.files)-1] }

// append adds a record to the epoch under way.
func (l *log) append(r *record, payload []byte) error {
	if len(l.buf)+recordSize+len(payload) > writeBuffer {
		if err := l.flush(); err != nil {
			return err
		}
	}
	at := len(l.buf)
	l.buf = slices.Grow(l.buf, recordSize+len(payload))[:at+recordSize]
	r.put(l.buf[at:], payload, l.sum)
	l.sum = r.sum
	l.records++
	if len(payload) < writeDirect {
		l.buf = append(l.buf, payload...)
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.write(payload)
}

func (l *log) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	if err := l.write(l.buf); err != nil {
		return err
	}
	l.buf = l.buf[:0]
	return nil
}

func (l *log) write(p []byte) error {
	if _, err := l.current().WriteAt(p, l.flushed); err != nil {
		return err
	}
	l.flushed += int64(len(p))
	if l.flushed-l.started >= startEvery {
		l.started = l.flushed
		startSync(l.current().File)
	}
	return nil
}

// commit ends the epoch under way; it is in the file on return, and durable with the file's next sync.
func (l *log) commit(number uint64, at time.Time) (epochAt, error) {
	if err := l.append(&record{kind: kindCommit, epoch: number, off: at.UnixNano(), length: l.records}, nil); err != nil {
		return epochAt{}, err
	}
	if err := l.flush(); err != nil {
		return epochAt{}, err
	}
	f := l.current()
	f.last = number
	return epochAt{number: number, at: at, file: f, start: l.start, before: l.startSum, bytes: l.flushed - l.start}, nil
}

// discard takes the epoch under way back.
func (l *log) discard() {
	if l.start >= l.flushed {
		l.buf = l.buf[:l.start-l.flushed]
	} else {
		l.buf, l.flushed = l.buf[:0], l.start
		l.started = min(l.started, l.flushed)
	}
	l.sum = l.startSum
}

// retire gives back the files whose epochs are all applied durably, except the one that is written.
func (l *log) retire(applied uint64) error {
	for len(l.files) > 1 && l.files[0].last <= applied {
		f := l.files[0]
		l.files = l.files[1:]
		if l.spare == nil && f.shrink(l.sizes.spare) == nil {
			l.spare = f // its name stays until it is used again; what it holds is applied
			continue
		}
		if err := errors.Join(f.Close(), l.dir.Remove(f.name)); err != nil {
			return err
		}
	}
	return nil
}

// trim gives back most of the spare file.
func (l *log) trim() error {
	if l.spare == nil {
		return nil
	}
	return l.spare.shrink(l.sizes.idle)
}

// shrink makes a file that is not needed no larger than that.
func (f *logFile) shrink(size int64) error {
	var there [1]byte
	if n, err := f.ReadAt(there[:], size); n == 0 && errors.Is(err, io.EOF) {
		return nil
	}
	return f.Truncate(size)
}

func (l *log) close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	if l.spare != nil {
		errs = append(errs, l.spare.Close())
	}
	l.files, l.spare = nil, nil
	return errors.Join(errs...)
}
