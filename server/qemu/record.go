package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/server"
)

// role is what a machine is here for.
type role string

const (
	roleActive   role = "active"   // it runs the service, or did until it was quiesced
	roleIncoming role = "incoming" // it waits for the service; nothing may run it but Activate
)

// stage is how far a handover is, as far as a restart has to know.
type stage string

const (
	stageNone     stage = ""
	stageFlowing  stage = "flowing"  // active: memory flows; incoming: a stream was accepted
	stageStopping stage = "stopping" // active: the guest is being stopped for good; it must not run unless rolled back
	stageQuiesced stage = "quiesced" // active: it has stopped, and everything is sent
)

// record is what is kept of a machine on disk.
type record struct {
	Machine   server.Machine
	Role      role
	Stage     stage
	Epoch     uint64    // the newest seen
	Activated uint64    // the epoch under which it was activated here; 0 if it was started here
	StoppedAt time.Time // last STOP that we asked for
	ResumedAt time.Time // first RESUME after a handover
	Sent      int64     // bytes of the stream of the last handover that was quiesced
	Ballast   bool      // it was started with the node that keeps QEMU from finishing by itself
	Sandbox   bool      // and locked up
}

const recordFile = "machine.json"

// load returns false if there is none.
func (r *record) load(dir string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, r); err != nil {
		return false, fmt.Errorf("read %s: %w", recordFile, err)
	}
	return true, nil
}

// save replaces what is on disk. Durable, it survives a power cut; otherwise a killed process only, which is enough for what
// is void without its QEMU, and takes no time.
func (r *record) save(dir string, durable bool) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(dir, recordFile, append(data, '\n'), durable); err != nil {
		return fmt.Errorf("write down the machine: %w", err)
	}
	return nil
}

// replaceFile replaces dir/name in one step.
func replaceFile(dir, name string, data []byte, durable bool) error {
	temporary := filepath.Join(dir, "."+name+".new")
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if durable {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil || !durable {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
