//go:build lab

package acceptance

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// copyView is what these tests read of one copy of a volume.
type copyView struct {
	Name, Site, Host, Role, Mode, Wanted, Path, Error string
	Connected, Complete, Resyncing                    bool
	Lag, Tail                                         int64
	Epoch                                             uint64
	PointTime                                         time.Time
}

// protectedBy is the usual service with a standing replica at the other site.
func (s spec) protectedBy(w *world, mode string) string {
	return s.manifest(w) + fmt.Sprintf("storage: {replicateTo: %s, mode: %s}\n", otherSite(s.site), mode)
}

// copies are those of the service's volume, by site.
func (w *world) copies(t *testing.T) map[string]copyView {
	t.Helper()
	all := make(map[string]copyView)
	for _, v := range get[listOf[copyView]](t, w, "volumes").Items {
		all[v.Site] = v
	}
	return all
}

// inStep waits until the service is at the site and its replica at the other one has all.
func (w *world) inStep(t *testing.T, site, mode string) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		c := w.copies(t)
		from, to := c[site], c[otherSite(site)]
		if len(c) != 2 || from.Role != "primary" || from.Mode != mode || !from.Connected || from.Resyncing || to.Role != "replica" || !to.Complete || !to.Connected {
			return fmt.Sprintf("the replica is not in step with %s: %+v", site, c)
		}
		return ""
	})
}

// shipped waits until the replica has all that the service's site had at a moment.
func (w *world) shipped(t *testing.T, site string, moment time.Time) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		if c := w.copies(t)[site]; c.PointTime.Before(moment) {
			return fmt.Sprintf("the replica is not where %s was at %v: %+v", site, moment, c)
		}
		return ""
	})
}

// startReplicated begins the service with a standing replica and waits for both.
func (w *world) startReplicated(t *testing.T, mode string) {
	t.Helper()
	w.must(t, "apply", "-f", manifest(t, shop.protectedBy(w, mode)))
	w.answering(t)
	w.inStep(t, shop.site, mode)
}

func (w *world) answering(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, func() string {
		if !w.answers(t) {
			return "the guest does not answer"
		}
		return ""
	})
}

// acked is the number of the last write that a client was told of.
func (w *world) acked(t *testing.T) uint64 {
	t.Helper()
	r := w.ask(t, "7000", "1")
	var n, count, acked uint64
	if _, err := fmt.Sscan(r.out, &n, &count, &acked); err != nil {
		t.Fatalf("the guest does not say what was written: %v: %v", err, r)
	}
	return acked
}

// stamps reads which write of which boot each block of a raw disk holds, as lab/guest writes them.
func stamps(t *testing.T, path string) map[uint64][2]uint64 {
	t.Helper()
	const magic, block = 0x31_42_54_49_57_44_4f_47, 4096
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[uint64][2]uint64)
	for at := 0; at+block <= len(raw); at += block {
		if b := raw[at:]; binary.LittleEndian.Uint64(b) == magic {
			found[uint64(at/block)] = [2]uint64{binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])}
		}
	}
	return found
}

// survived compares what the lost site has acknowledged with what the new one has; the blocks that its guest has overwritten since do
// not count. Writes were made one after the other, so all but the last were acknowledged.
func survived(t *testing.T, lost, kept string) (writes uint64) {
	t.Helper()
	before, after := stamps(t, lost), stamps(t, kept)
	var boot, last uint64
	for _, s := range before {
		if s[1] > last {
			boot, last = s[0], s[1]
		}
	}
	missing, compared := 0, 0
	for block, s := range before {
		now := after[block]
		if s[0] != boot || s[1] == last || now[0] != boot && now[0] != 0 {
			continue
		}
		if compared++; now[1] != s[1] {
			missing++
		}
	}
	if missing > 0 || compared < 100 {
		t.Errorf("%d of %d blocks lack their last acknowledged write", missing, compared)
	}
	return last
}

// strike cuts a site off and kills what runs there. The link is first, so that what the lab starts again is alone.
func (w *world) strike(t *testing.T, site string) {
	t.Helper()
	pids := []int{w.daemons(t)["agent "+site+"-host"], w.daemons(t)["agent "+site+"-edge"]}
	machines := w.machines(t, site+"-host")
	if len(machines) != 1 {
		t.Fatalf("%d virtual servers run at %s", len(machines), site)
	}
	w.must(t, "lab", "link", "--name", w.name, "cut", site)
	for _, pid := range append(machines, pids...) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
}

// failover fails the service over as soon as it may be, and waits until its guest answers.
func (w *world) failover(t *testing.T) {
	t.Helper()
	w.takeOver(t)
	w.answering(t)
}

func (w *world) takeOver(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, func() string {
		if r := w.godwit(t, "failover", service); r.code != 0 {
			if !strings.Contains(r.err, "answers, so the service has not lost its site") && !strings.Contains(r.err, "is down") { // it was cut off
				t.Fatalf("failover: %v", r)
			}
			return r.err
		} else {
			t.Log(r.out)
		}
		return ""
	})
}

// demoted waits until the old owner follows the new one, and says what it has kept aside.
func (w *world) demoted(t *testing.T, site string) int64 {
	t.Helper()
	w.must(t, "lab", "link", "--name", w.name, "restore", site)
	w.inStep(t, otherSite(site), "sync")
	here, there := w.machines(t, site+"-host"), w.machines(t, otherSite(site)+"-host")
	if len(here) != 0 || len(there) != 1 {
		t.Errorf("%d virtual servers run at the old site, %d at the new one", len(here), len(there))
	}
	var kept listOf[struct{ Name, Site string }]
	if err := json.Unmarshal([]byte(w.must(t, "volume", "snapshot", "list", service, "-o", "json")), &kept); err != nil {
		t.Fatal(err)
	}
	if len(kept.Items) != 1 || kept.Items[0].Site != site || !strings.HasPrefix(kept.Items[0].Name, "before-failover-") {
		t.Errorf("what the old owner held is kept as %+v", kept.Items)
	}
	w.must(t, "volume", "verify", service)
	return w.copies(t)[site].Tail
}

// TestAServiceSurvivesItsSite loses a site in either way: dead, and cut off with all that runs there alive.
func TestAServiceSurvivesItsSite(t *testing.T) {
	w := up(t, "acc-fail", "--bandwidth", "400mbit")
	w.startReplicated(t, "sync")
	if r := w.godwit(t, "failover", service); r.code != 1 || !strings.Contains(r.err, "godwit migrate "+service) {
		t.Errorf("a failover of a service that is well: %v", r)
	}
	eventually(t, time.Minute, func() string {
		if n := w.acked(t); n < 300 {
			return fmt.Sprintf("only %d writes were made", n)
		}
		return ""
	})
	paths := map[string]string{}
	for site, c := range w.copies(t) {
		paths[site] = c.Path
	}

	seen := w.acked(t)
	w.strike(t, "west")
	w.failover(t)
	if last := survived(t, paths["west"], paths["east"]); last < seen {
		t.Errorf("the lost site made %d writes, a client saw %d", last, seen)
	} else {
		t.Logf("FAILOVER | the site is killed | %d writes made, %d seen by a client | none lost", last, seen)
	}
	if left := w.copies(t)["west"]; left.Role != "leftover" || !strings.Contains(left.Error, "when west-host is back") {
		t.Errorf("the old site is shown as %+v", left)
	}
	t.Logf("FAILOVER | west is back | %d bytes kept aside", w.demoted(t, "west"))

	// The other way: east is alive and writes on, alone.
	w.must(t, "lab", "link", "--name", w.name, "cut", "east")
	w.failover(t)
	tail := w.demoted(t, "east")
	if tail == 0 {
		t.Error("the old site wrote on alone, and nothing of that is kept aside")
	}
	t.Logf("FAILOVER | the site is cut off, and wrote on | %d bytes kept aside", tail)

	w.must(t, "delete", "service", service)
	for _, site := range []string{"west", "east"} {
		if left := w.machines(t, site+"-host"); len(left) > 0 {
			t.Errorf("virtual servers are left at %s", site)
		}
	}
	eventually(t, 10*time.Second, func() string {
		if left := get[listOf[copyView]](t, w, "volumes").Items; len(left) > 0 {
			return fmt.Sprintf("volumes are left: %+v", left)
		}
		return ""
	})
}
