package dvshost

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/migration"
)

// book is what a node must not forget of moves: those that it decides, and the journals of those that come to it. It is a file to which the
// newest entry of an endpoint is added, or memory where there is no directory: then a node that begins again knows nothing, and a move that was
// undecided ends as if this node had died, with all that was on it.
//
// What was added is in the kernel before it is acted on, so a killed node forgets nothing. It is not on the disk: a power failure ends the processes
// too. What has been lost then is taken for the worst, for the id says which run of the machine it is of.
type book struct {
	id   string // of the file, and of this run of the machine
	head bookHead
	dir  string // "" is memory
	lock *os.File

	mu      sync.Mutex
	file    *os.File
	size    int64 // of the file
	whole   int64 // of the file when it was last written anew
	entries map[key]entry
}

// entry is what is known of one endpoint.
type entry struct {
	Container string `json:"container"`
	Name      string `json:"name"`
	Epoch     uint64 `json:"epoch,omitempty"` // the highest that this node gave out
	// Floor is the least epoch with which the name may be bound here, after a move was given up; 0 is any.
	Floor uint64 `json:"floor,omitempty"`
	// Moves are those that this node decides and that are not over, by epoch.
	Moves map[uint64]record `json:"moves,omitempty"`
	// Records are those of replicated processes that this node helps to keep, by group. After a power failure they are not used: promises may be missing.
	Records map[string]groupRecord `json:"records,omitempty"`
	// Journal is of moves to this node.
	Journal migration.Journal `json:"journal,omitzero"`
}

// groupRecord is what is kept of a group: what its nodes agree on, and who they are.
type groupRecord struct {
	register.Saved
	Nodes []string `json:"nodes,omitempty"`
}

// record is a move that this node decides.
type record struct {
	State migration.State `json:"state"`
	// Memory is the id of the destination's book.
	Memory string `json:"memory,omitempty"`
}

const (
	bookFile = "moves"
	// bookSpare is how much may be added to the file before it is written anew.
	bookSpare = 1 << 20
)

type bookHead struct {
	ID   string `json:"id"`
	Boot string `json:"boot"` // the run of the machine in which it was written
}

// thisBoot names the run of the machine; a node that cannot learn it takes each start for a new one.
func thisBoot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return randomID()
	}
	return string(bytes.TrimSpace(b))
}

// openBook opens the book in a directory, which only one node may use at a time; "" is memory.
func openBook(dir string) (*book, error) {
	b := &book{head: bookHead{ID: randomID()}, dir: dir, entries: map[key]entry{}}
	b.id = b.head.ID
	if dir == "" {
		return b, nil
	}
	if err := b.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the record of moves in %s: %w", dir, err), b.close())
	}
	return b, nil
}

func (b *book) open() error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	var err error
	if b.lock, err = os.OpenFile(filepath.Join(b.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(b.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another node uses it: give each a directory of its own: %w", err)
	}
	raw, err := os.ReadFile(filepath.Join(b.dir, bookFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	boot := thisBoot()
	if err := b.read(raw, boot); err != nil {
		return err
	}
	if b.head.Boot != boot {
		for k, e := range b.entries {
			e.Records = nil
			b.entries[k] = e
		}
	}
	b.head.Boot = boot
	b.id = b.head.ID + "@" + boot
	if err := b.rewrite(); err != nil {
		return err
	}
	if err := b.file.Sync(); err != nil {
		return err
	}
	return syncDir(b.dir)
}

// read takes in what a file holds. Its last line may be cut off: then it was never acted on. After a power failure more of its end may be damaged.
func (b *book) read(raw []byte, boot string) error {
	r := bufio.NewReader(bytes.NewReader(raw))
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		var e entry
		if n == 1 {
			b.head = bookHead{}
			err = json.Unmarshal(line, &b.head)
		} else if err = json.Unmarshal(line, &e); err == nil {
			b.entries[key{e.Container, e.Name}] = e
		}
		if err == nil && b.head.ID == "" {
			err = errors.New("it does not say whose it is")
		}
		if err != nil && n > 1 && b.head.Boot != boot {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d is damaged: %w; if no move was under way, remove the file", n, err)
		}
	}
}

// rewrite replaces the file by one with the entries as they are.
func (b *book) rewrite() error {
	path := filepath.Join(b.dir, bookFile)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var all bytes.Buffer
	to := json.NewEncoder(&all)
	err = to.Encode(b.head)
	for _, e := range b.entries {
		err = errors.Join(err, to.Encode(e))
	}
	if err == nil {
		_, err = f.Write(all.Bytes())
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if b.file != nil {
		err = b.file.Close()
	}
	b.file, b.size = f, int64(all.Len())
	b.whole = b.size
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// get returns the entry of an endpoint, which the caller does not change.
func (b *book) get(k key) entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[k]
}

// all returns the entries.
func (b *book) all() map[key]entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.entries)
}

// change has f make a new entry of an endpoint's, and returns when the kernel has it, unless f says that nothing is new. Where it cannot
// be written it is remembered until the node ends.
func (b *book) change(k key, f func(*entry) bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[k]
	e.Container, e.Name = k.container, k.name
	e.Moves = maps.Clone(e.Moves)
	if !f(&e) {
		return nil
	}
	b.entries[k] = e
	if b.dir == "" {
		return nil
	}
	if err := b.add(e); err != nil {
		return fmt.Errorf("write the record of moves in %s: %w", b.dir, err)
	}
	return nil
}

func (b *book) add(e entry) error {
	if b.file == nil { // nothing may be promised any more
		return os.ErrClosed
	}
	if b.size > 2*b.whole+bookSpare {
		return b.rewrite()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	n, err := b.file.Write(append(line, '\n'))
	b.size += int64(n)
	if err != nil {
		b.whole, b.size = 0, bookSpare+1 // half a line may be there: the next one is written anew
	}
	return err
}

// close lets another node use the directory.
func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.file != nil {
		err = b.file.Close()
	}
	b.file = nil
	if b.lock != nil {
		err = errors.Join(err, b.lock.Close())
	}
	b.lock = nil
	return err
}
