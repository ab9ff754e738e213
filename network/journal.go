package network

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// compactAfter is how many lines a journal may grow beyond its living records before it is rewritten.
const compactAfter = 200

// journal keeps the newest value of each key on stable storage. It is a text file, one line per change:
//
//	CRC32 in hex, space, {"key":…,"value":…}        value null: the key is gone
//
// A change is one append and one fdatasync. A torn last line, which a crash leaves, was never acknowledged and is
// cut off when the file is opened; a bad line before the last is corruption, and an error.
type journal[T any] struct {
	path string

	mu      sync.Mutex
	file    *os.File
	records map[string]T
	lines   int
	failed  error // after a failed write nothing more is acknowledged: what is on disk is unknown
}

type journalLine[T any] struct {
	Key   string `json:"key"`
	Value *T     `json:"value"`
}

// openJournal opens or creates dir/name and reads what it says.
func openJournal[T any](dir, name string) (*journal[T], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("network: journal directory: %w", err)
	}
	j := &journal[T]{path: filepath.Join(dir, name), records: map[string]T{}}
	data, err := os.ReadFile(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("network: read journal: %w", err)
	}
	if err := j.replay(data); err != nil {
		return nil, fmt.Errorf("network: journal %s: %w", j.path, err)
	}
	if err := j.compactLocked(); err != nil {
		return nil, err
	}
	return j, nil
}

func (j *journal[T]) replay(data []byte) error {
	r := bufio.NewReader(bytes.NewReader(data))
	for number := 1; ; number++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what follows the last newline was torn off by a crash, or is nothing
		}
		entry, err := decodeLine[T](line)
		if err != nil {
			if _, peek := r.Peek(1); errors.Is(peek, io.EOF) {
				return nil
			}
			return fmt.Errorf("line %d: %w; restore the file or remove it and attach the services again", number, err)
		}
		if entry.Value == nil {
			delete(j.records, entry.Key)
		} else {
			j.records[entry.Key] = *entry.Value
		}
	}
}

func decodeLine[T any](line []byte) (journalLine[T], error) {
	var entry journalLine[T]
	sum, body, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !ok {
		return entry, errors.New("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil {
		return entry, fmt.Errorf("checksum: %w", err)
	}
	if crc32.ChecksumIEEE(body) != uint32(want) {
		return entry, errors.New("checksum does not match")
	}
	if err := json.Unmarshal(body, &entry); err != nil {
		return entry, err
	}
	return entry, nil
}

func encodeLine[T any](key string, value *T) ([]byte, error) {
	body, err := json.Marshal(journalLine[T]{Key: key, Value: value})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(body), body), nil
}

// put makes value the newest of key; it is on stable storage on return.
func (j *journal[T]) put(key string, value T) error { return j.write(key, &value) }

// remove forgets key, durably.
func (j *journal[T]) remove(key string) error { return j.write(key, nil) }

func (j *journal[T]) write(key string, value *T) error {
	line, err := encodeLine(key, value)
	if err != nil {
		return fmt.Errorf("network: journal %s: %w", key, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return fmt.Errorf("network: journal is closed since an earlier error: %w", j.failed)
	}
	if _, err = j.file.Write(line); err == nil {
		err = fdatasync(j.file)
	}
	if err != nil {
		j.failed = err
		return fmt.Errorf("network: write journal %s: %w", j.path, err)
	}
	if value == nil {
		delete(j.records, key)
	} else {
		j.records[key] = *value
	}
	j.lines++
	if j.lines > len(j.records)+compactAfter {
		if err := j.compactLocked(); err != nil {
			j.failed = err
		}
	}
	return nil
}

// compactLocked rewrites the file with the living records alone, and leaves it open for appending.
func (j *journal[T]) compactLocked() error {
	next, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("network: rewrite journal: %w", err)
	}
	w := bufio.NewWriter(next)
	for key, value := range j.records {
		line, err := encodeLine(key, &value)
		if err != nil {
			next.Close()
			return fmt.Errorf("network: rewrite journal %s: %w", key, err)
		}
		w.Write(line) // a failure stays with the writer and comes out of Flush
	}
	if err := errors.Join(w.Flush(), next.Sync()); err != nil {
		next.Close()
		return fmt.Errorf("network: rewrite journal: %w", err)
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		next.Close()
		return fmt.Errorf("network: rewrite journal: %w", err)
	}
	if err := syncDir(filepath.Dir(j.path)); err != nil {
		next.Close()
		return fmt.Errorf("network: rewrite journal: %w", err)
	}
	if j.file != nil {
		j.file.Close() // replaced: nothing in it is needed
	}
	j.file, j.lines = next, len(j.records)
	return nil
}

// all returns a copy of what is recorded.
func (j *journal[T]) all() map[string]T {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make(map[string]T, len(j.records))
	for k, v := range j.records {
		out[k] = v
	}
	return out
}

func (j *journal[T]) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil {
		j.failed = errors.New("closed")
	}
	return j.file.Close()
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
