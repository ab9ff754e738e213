package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"
)

const (
	stateName   = "state"
	stateNew    = "state.new"
	stateFormat = 1
)

// state is what is durable beside the log.
type state struct {
	Format int `json:"format"`
	// Lineage is drawn anew whenever the content changes otherwise than by the next epoch.
	Lineage uint64 `json:"lineage"`
	// Complete says that there is a consistent point.
	Complete bool `json:"complete"`
	// Applied is the epoch up to which the disks are durable, and when the primary was there.
	Applied uint64    `json:"applied"`
	Time    time.Time `json:"time"`
	// Touched says that something was written to the disks.
	Touched bool   `json:"touched"`
	Spoiled string `json:"spoiled,omitempty"`
	NextCut int    `json:"nextCut,omitempty"`
	Cuts    []Cut  `json:"cuts,omitempty"`
}

// Cut is a named point that is kept.
type Cut struct {
	Name string `json:"name"`
	// Epoch is the one at whose end it is, Time when the primary was there.
	Epoch uint64    `json:"epoch"`
	Time  time.Time `json:"time"`
	// Until is when it expires; zero for never.
	Until time.Time `json:"until,omitzero"`
	// Saved is what it occupies, in bytes, at most.
	Saved int64 `json:"-"`
	ID    int   `json:"id"`
}

func newLineage() uint64 { return rand.Uint64()>>1 | 1 }

func loadState(dir FS) (st state, ok bool, err error) {
	f, err := dir.Open(stateName, false)
	if errors.Is(err, fs.ErrNotExist) {
		return st, false, nil
	}
	if err != nil {
		return st, false, err
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if err := readFull(f, b, 0); err != nil {
		return st, false, err
	}
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	if err := json.Unmarshal(b[:n], &st); err != nil {
		return st, false, fmt.Errorf("%w: state: %w", ErrDamaged, err)
	}
	if st.Format != stateFormat {
		return st, false, fmt.Errorf("state of the replica has format %d, this program knows %d only", st.Format, stateFormat)
	}
	return st, true, nil
}

// save makes the state durable in one step.
func (st *state) save(dir FS) error {
	st.Format = stateFormat
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	f, err := dir.Open(stateNew, true)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := dir.Rename(stateNew, stateName); err != nil {
		return err
	}
	return dir.Sync()
}
