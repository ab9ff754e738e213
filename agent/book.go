package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// entry is what an agent remembers of one service.
type entry struct {
	Journal migration.Journal `json:"journal"`
	// Home is the epoch under which the service runs here; 0 when it does not.
	Home uint64 `json:"home,omitempty"`
	// Spec is the protojson of the ServiceSpec that Home runs.
	Spec json.RawMessage `json:"spec,omitempty"`
	// Importing are the volumes that were made here and whose image is not in yet. A volume that came from elsewhere never is
	// among them: nothing may be written over it.
	Importing []string `json:"importing,omitempty"`
	// Replication is the protojson of the ReplicateService that this host has a part in; nil when it has none.
	Replication json.RawMessage `json:"replication,omitempty"`
	// Serial is the highest of ReplicateServices seen, and of what ended them.
	Serial uint64 `json:"serial,omitempty"`
	// Figures of the steps of Journal.Epoch that are done: protojson of StepFigures.
	Figures map[migration.StepID]json.RawMessage `json:"figures,omitempty"`
}

// book keeps the entries, one file each. The file is in the page cache before any step is acted on, so a killed agent
// forgets nothing; it is on stable storage before the first step of an epoch. That is enough: a power failure ends the
// virtual servers too, and what volumes and edges must not forget, they keep themselves.
type book struct {
	dir string

	mu      sync.Mutex
	entries map[string]*entry
}

func openBook(dir string) (*book, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	b := &book{dir: dir, entries: make(map[string]*entry)}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, f := range files {
		e := new(entry)
		if err := readJSON(f, e); err != nil {
			return nil, err
		}
		b.entries[strings.TrimSuffix(filepath.Base(f), ".json")] = e
	}
	return b, nil
}

// view calls f with the entry of a service, which may be empty. f must not keep it.
func (b *book) view(service string, f func(entry)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[service]; e != nil {
		f(*e)
		return
	}
	f(entry{})
}

// change calls f with the entry of a service and writes what it made of it. An error of f is returned and nothing is
// written, but what f changed in memory stays; f changes nothing then.
func (b *book) change(service string, durable bool, f func(*entry) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entries[service]
	if e == nil {
		e = new(entry)
	}
	if err := f(e); err != nil {
		return err
	}
	b.entries[service] = e
	return writeJSON(filepath.Join(b.dir, service+".json"), e, durable)
}

// services lists those of which something is known, sorted.
func (b *book) services() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.entries))
}

// undecided lists what died with the process before this one: the volatile ends of attempts that have neither been
// committed nor aborted.
func (b *book) undecided(volatile func(migration.StepID) bool) []*pb.Notice {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lost []*pb.Notice
	for _, name := range slices.Sorted(maps.Keys(b.entries)) {
		j := b.entries[name].Journal
		if j.Decision != migration.DecisionNone {
			continue
		}
		for _, id := range j.Done {
			if volatile(id) {
				lost = append(lost, &pb.Notice{
					Service: name, Epoch: j.Epoch, Participant: string(id.Participant()), Role: string(id.Role()),
					Reason: "the agent was restarted, and its streams broke",
				})
				break
			}
		}
	}
	return lost
}

// still says whether a notice speaks of an attempt that is undecided still.
func (b *book) still(n *pb.Notice) bool {
	var yes bool
	b.view(n.GetService(), func(e entry) {
		yes = e.Journal.Epoch == n.GetEpoch() && e.Journal.Decision == migration.DecisionNone
	})
	return yes
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step. With durable it is on stable storage when this returns.
func writeJSON(path string, v any, durable bool) (err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if rerr := os.Remove(f.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	_, err = f.Write(raw)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if !durable {
		return nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}
