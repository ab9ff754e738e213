package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

const (
	// alertFor is how long a fault is told of that was not seen again.
	alertFor = time.Hour
	// nearlyFull is what is left on the host's disk when operators are told, in bytes.
	nearlyFull = 256 << 20
	// slowRequest is what a request may take, and slowMany how many took longer within slowEvery when operators are told.
	slowRequest = time.Second
	slowMany    = 3
	slowEvery   = 10 * time.Second
)

// failedNote is the ending of the file that says that a disk has failed; externalDir is where that of external disks is.
const (
	failedNote  = ".failed"
	externalDir = "external"
)

// findings is what is known of a volume when operators are to be told.
type findings struct {
	now    time.Time
	faults []storage.Alert
	free   int64  // on the host's disk; negative: it does not matter
	lost   int64  // bytes of its service's volumes that can be read at neither end
	slow   int    // requests of late that took too long
	note   string // the file that says that the disk has failed
}

// alert finds out what an operator should do about a volume.
func (h *host) alert(o *pb.Volume, lost int64) string {
	f := findings{now: time.Now(), free: -1, lost: lost, note: o.GetPath() + failedNote}
	if o.GetBacking() == backingExternal {
		f.note = filepath.Join(h.dir, externalDir, o.GetName()+failedNote)
		if x, err := h.external.Disk(o.GetName()); err == nil {
			f.faults, f.slow = x.Alerts(), h.slow.look(o.GetName(), x.Counters(), f.now)
		}
		return alertOf(o, f)
	}
	if o.GetBacking() == backingDevice {
		f.note = h.store.StatePath(o.GetName()) + failedNote
	} else if free, err := h.store.Free(); err == nil && o.GetAllocated() < o.GetSize() {
		f.free = free
	}
	if v, err := h.store.Volume(o.GetName()); err == nil {
		f.faults, f.slow = v.Alerts(), h.slow.look(o.GetName(), v.Counters(), f.now)
	}
	return alertOf(o, f)
}

// alertOf says what is the matter with a volume and what to do, the worst first; empty when all is well.
func alertOf(o *pb.Volume, f findings) string {
	var all []string
	for _, a := range f.faults {
		if text := faultText(o, a, f); text != "" {
			all = append(all, text)
		}
	}
	full := f.free >= 0 && f.free < roomToWrite
	switch {
	case full && o.GetRole() == storage.RoleReplica:
		all = append(all, fmt.Sprintf("the disk of this host is full (%s free): the replica takes nothing more: make room for %s", api.FormatSize(f.free), o.GetPath()))
	case full:
		all = append(all, fmt.Sprintf("the disk of this host is full (%s free): guests that write are stopped, and go on by themselves when there is room: make room for %s", api.FormatSize(f.free), o.GetPath()))
	case f.free >= 0 && f.free < nearlyFull:
		all = append(all, fmt.Sprintf("only %s are left on the disk of this host: make room before guests have to be stopped", api.FormatSize(f.free)))
	}
	if f.lost > 0 {
		all = append(all, fmt.Sprintf("%s of this service's volumes had rotted before the replica had them, and can be read at neither end until they are written anew: restore them from a backup or a snapshot; the agent's log names them", api.FormatSize(f.lost)))
	}
	if f.slow >= slowMany {
		all = append(all, fmt.Sprintf("%d requests of the last %v took longer than %v: look after the disk of this host%s", f.slow, slowEvery, slowRequest, otherEnd(o)))
	}
	if text := replicationAlert(o); text != "" {
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// otherEnd names who else may be slow.
func otherEnd(o *pb.Volume) string {
	if mode := o.GetMode(); mode == storage.ModeSync || mode == storage.ModeFlush {
		return ", and that of the replica, whose answer is waited for"
	}
	return ""
}

// faultText says what one kind of fault means; empty for one that is over.
func faultText(o *pb.Volume, a storage.Alert, f findings) string {
	lately := f.now.Sub(a.Time) < alertFor
	switch {
	case a.Kind == storage.FaultFailed:
		return fmt.Sprintf("the disk takes no writes any more, and what was written last may be lost: %s: look after the disk of this host; with a replica, godwit failover; or remove %s and restart the agent when it is known to be good", a.Text, f.note)
	case !lately:
		return ""
	case a.Kind == storage.FaultNoSpace && o.GetBacking() == backingExternal:
		return "the external disk has no room: guests that write are stopped, and go on by themselves when there is: " + a.Text
	case a.Kind == storage.FaultNoSpace && o.GetBacking() == backingDevice:
		return fmt.Sprintf("the block device %s has no room (a thin pool that is full?): guests that write are stopped, and go on by themselves when there is: %s", o.GetPath(), a.Text)
	case a.Kind == storage.FaultNoSpace && f.free < 0:
		return "the disk has no room: " + a.Text
	case a.Kind == storage.FaultRead:
		return fmt.Sprintf("the disk could not be read %d times, and the guest was told: %s: replace it; godwit volume verify --local names what is lost", a.Count, a.Text)
	case a.Kind == storage.FaultWrite:
		return fmt.Sprintf("the disk did not take %d writes, and the guest is stopped until it does: %s: look after it", a.Count, a.Text)
	case a.Kind == storage.FaultCorrupt:
		return fmt.Sprintf("what was read is not what was written, %d times: %s: look after the disk and the memory of this host; godwit volume verify --local names the blocks", a.Count, a.Text)
	case a.Kind == storage.FaultRepaired:
		return fmt.Sprintf("%d blocks had rotted and were put right from the replica: look after the disk and the memory of this host", a.Count)
	}
	return ""
}

// replicationAlert says what is the matter with a standing replication.
func replicationAlert(o *pb.Volume) string {
	switch {
	case o.GetWanted() == "":
		return ""
	case !o.GetConnected():
		return "the replica is out of reach, and misses what is written: look after the link and the agent there"
	case o.GetThrottled() > 0:
		return "writers are slowed, because the replica is behind: the link or its disk is too slow, or maxLag too small"
	}
	return ""
}

// slowness remembers how many requests of each volume took too long.
type slowness struct {
	mu  sync.Mutex
	all map[string]slowSample
}

type slowSample struct {
	at    time.Time
	total int // since the store was opened
	late  int // within the last slowEvery that is over
}

// look takes a sample, if the last one is old enough, and returns how many requests were slow in the time before it.
func (s *slowness) look(volume string, c storage.Counters, now time.Time) int {
	total := 0
	for _, kind := range []storage.Counted{c.Reads, c.Writes, c.Discards, c.Flushes} {
		for i, n := range kind.Buckets {
			if i > 0 && storage.LatencyBounds[i-1] >= slowRequest {
				total += int(n)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]slowSample)
	}
	last, known := s.all[volume]
	switch {
	case !known || total < last.total: // opened, or opened anew
		s.all[volume] = slowSample{at: now, total: total}
	case now.Sub(last.at) >= slowEvery:
		s.all[volume] = slowSample{at: now, total: total, late: total - last.total}
	}
	return s.all[volume].late
}
