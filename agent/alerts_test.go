package agent

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

func TestAnAlertSaysWhatIsTheMatterAndWhatToDo(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seen := func(kind string, ago time.Duration) []storage.Alert {
		return []storage.Alert{{Kind: kind, Time: now.Add(-ago), Count: 3, Text: "disk /d: it says so"}}
	}
	const plenty = 1 << 40
	for name, c := range map[string]struct {
		volume *pb.Volume
		found  findings
		want   []string // none: no alert
	}{
		"all is well":                   {&pb.Volume{}, findings{free: plenty}, nil},
		"a full disk":                   {&pb.Volume{Path: "/v/base.raw"}, findings{free: 1 << 20, faults: seen(storage.FaultNoSpace, 0)}, []string{"is full (1 MiB free)", "go on by themselves", "make room for /v/base.raw"}},
		"a disk that was full":          {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultNoSpace, time.Minute)}, nil},
		"a disk that is nearly full":    {&pb.Volume{}, findings{free: 200 << 20}, []string{"only 200 MiB are left"}},
		"a full external disk":          {&pb.Volume{Backing: backingExternal}, findings{free: -1, faults: seen(storage.FaultNoSpace, 0)}, []string{"the external disk has no room", "go on by themselves"}},
		"a bad sector":                  {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultRead, 0)}, []string{"could not be read 3 times, and the guest was told", "volume verify --local"}},
		"a bad sector of long ago":      {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultRead, 2*time.Hour)}, nil},
		"a write that was not taken":    {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultWrite, 0)}, []string{"did not take 3 writes, and the guest is stopped"}},
		"a disk that has failed":        {&pb.Volume{}, findings{free: plenty, note: "/v/base.raw.failed", faults: seen(storage.FaultFailed, 9*time.Hour)}, []string{"takes no writes any more", "godwit failover", "/v/base.raw.failed"}},
		"rot":                           {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultCorrupt, 0)}, []string{"not what was written, 3 times"}},
		"rot that was put right":        {&pb.Volume{}, findings{free: plenty, faults: seen(storage.FaultRepaired, 0)}, []string{"put right from the replica"}},
		"blocks that are lost":          {&pb.Volume{}, findings{free: plenty, lost: 8192}, []string{"8 KiB of this service's volumes had rotted before the replica had them", "restore them"}},
		"a thin device that is full":    {&pb.Volume{Backing: backingDevice, Path: "/dev/vg0/a"}, findings{free: -1, faults: seen(storage.FaultNoSpace, 0)}, []string{"the block device /dev/vg0/a has no room"}},
		"a slow disk":                   {&pb.Volume{Mode: "local"}, findings{free: plenty, slow: 9}, []string{"9 requests of the last 10s took longer than 1s: look after the disk of this host"}},
		"a slow disk at either end":     {&pb.Volume{Mode: "sync"}, findings{free: plenty, slow: 9}, []string{"and that of the replica"}},
		"a request that was slow":       {&pb.Volume{}, findings{free: plenty, slow: 1}, nil},
		"a replica out of reach":        {&pb.Volume{Wanted: "sync"}, findings{free: plenty}, []string{"the replica is out of reach"}},
		"a replica that cannot keep up": {&pb.Volume{Wanted: "async", Connected: true, Throttled: 2}, findings{free: plenty}, []string{"writers are slowed"}},
		"two troubles":                  {&pb.Volume{Wanted: "sync"}, findings{free: 0}, []string{"is full (0 B free)", "; the replica is out of reach"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.found.now = now
			got := alertOf(c.volume, c.found)
			if len(c.want) == 0 && got != "" {
				t.Errorf("an alert for nothing: %s", got)
			}
			for _, text := range c.want {
				if !strings.Contains(got, text) {
					t.Errorf("%q does not say %q", got, text)
				}
			}
		})
	}
}

func TestSlowRequestsAreCountedForAWhile(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	counted := func(slow uint64) storage.Counters {
		var c storage.Counters
		c.Reads.Buckets[0] = 1000
		c.Writes.Buckets[len(c.Writes.Buckets)-1] = slow
		return c
	}
	var s slowness
	for _, step := range []struct {
		at   time.Duration
		slow uint64
		want int
	}{
		{0, 5, 0},
		{5 * time.Second, 9, 0},
		{10 * time.Second, 12, 7},
		{15 * time.Second, 12, 7},
		{20 * time.Second, 12, 0},
		{25 * time.Second, 1, 0}, // the agent was started again
	} {
		if got := s.look("v", counted(step.slow), now.Add(step.at)); got != step.want {
			t.Errorf("after %v there were %d slow requests, want %d", step.at, got, step.want)
		}
	}
}

func TestAFaultOfADiskIsAnAlertOfItsVolume(t *testing.T) {
	e := standing(t, random(1<<20))
	if alert := e.volumeOf("archive").GetAlert(); alert != "" {
		t.Fatalf("an alert for nothing: %s", alert)
	}
	e.imported("archive", random(1<<20))
	task := &pb.VolumeTask{Volume: "archive", Names: []string{"archive"}, Verb: locate}
	files, err := e.volume(t.Context(), task, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.flip("archive", 5000)
	v, err := e.store.Volume("archive")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.ReadAt(t.Context(), make([]byte, 4096), 4096); !errors.Is(err, syscall.EIO) {
		t.Fatalf("rot was read from %s: %v", files.GetFiles()[0].GetPath(), err)
	}
	if alert := e.volumeOf("archive").GetAlert(); !strings.Contains(alert, "what was read is not what was written") {
		t.Errorf("the alert is %q", alert)
	}
}
