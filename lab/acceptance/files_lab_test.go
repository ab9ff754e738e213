//go:build lab

package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// onFiles is a service whose volume has an ext4, and whose guest writes nothing by itself.
var onFiles = spec{name: service, site: "west", address: address, memory: "128MiB", volume: "64MiB", words: "quiet godwit.dirty=0 godwit.dirtyspace=4MiB godwit.writes=0"}

// recordsPerKept is how many records the client writes for each kept file.
const recordsPerKept = 5

// emptyExt4 makes the file that a volume begins with.
func emptyExt4(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"mke2fs", "e2fsck"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (package e2fsprogs): %v", program, err)
		}
	}
	path := filepath.Join(t.TempDir(), "ext4.raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", path).CombinedOutput(); err != nil {
		t.Fatalf("make an ext4: %v: %s", err, out)
	}
	return path
}

// writer is a client that has the guest write on its files, one thing after the other, and notes what it is told.
type writer struct {
	said  string // the file of what it was told
	stop  func()
	after told
}

// told is up to where everything was acknowledged.
type told struct{ records, kept uint64 }

// write starts one; it begins after what is there.
func (w *world) write(t *testing.T, after told) *writer {
	t.Helper()
	const script = `exec 3<>/dev/tcp/$0/7001 || exit 1
		n=$1 kept=$2
		ask() { echo "$1" >&3 && IFS= read -r -t 20 answer <&3 && echo "$1 $answer" && [[ $answer == *done* ]]; }
		while ask "write $((++n))"; do ((n % $3)) || ask "keep $((++kept))" || exit 1; done`
	c := &writer{after: after}
	c.said, c.stop = w.background(t, t.TempDir(), script, fmt.Sprint(after.records), fmt.Sprint(after.kept), fmt.Sprint(recordsPerKept))
	return c
}

// told reads what the client was told so far.
func (c *writer) told(t *testing.T) told {
	t.Helper()
	have := c.after
	raw, err := os.ReadFile(c.said)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		var verb string
		var n uint64
		if _, err := fmt.Sscanf(string(line), "%s %d {\"done\":", &verb, &n); err != nil || !bytes.HasSuffix(line, []byte("}\n")) {
			continue // what it is being told
		}
		if bytes.Contains(line, []byte("error")) {
			t.Fatalf("the guest could not write: %s", line)
		}
		if verb == "write" {
			have.records = n
		} else {
			have.kept = n
		}
	}
	return have
}

// awaitTold waits until so many records more are acknowledged.
func (c *writer) awaitTold(t *testing.T, more uint64) told {
	t.Helper()
	from := c.told(t)
	eventually(t, time.Minute, func() string {
		if now := c.told(t); now.records < from.records+more {
			raw, _ := os.ReadFile(c.said)
			return fmt.Sprintf("the client was told of %d records, and of %d a minute ago; last: %s", now.records, from.records, lastLine(raw))
		}
		return ""
	})
	return c.told(t)
}

func lastLine(raw []byte) []byte {
	raw = bytes.TrimSpace(raw)
	return raw[bytes.LastIndexByte(raw, '\n')+1:]
}

// onDisk is what the guest finds on its file system.
type onDisk struct {
	Records        uint64 `json:"records"`
	MissingRecords uint64 `json:"missing_records"`
	Kept           uint64 `json:"kept"`
	MissingKept    uint64 `json:"missing_kept"`
	FirstMissing   string `json:"first_missing"`
	Error          string `json:"error"`
}

func (d onDisk) told() told { return told{d.Records, d.Kept} }

// mount lets the guest mount its disk, and read everything back.
func (w *world) mount(t *testing.T) onDisk {
	t.Helper()
	r := w.ask(t, "7001", "mount")
	var d onDisk
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || d.Error != "" {
		t.Fatalf("the guest cannot mount its disk: %v: %v", err, r)
	}
	return d
}

// fsck checks a copy of a disk that nobody has mounted since its site was lost: first as every machine does at boot (the journal is
// replayed, nothing else may need a repair), then as a whole, where nothing may be found.
func fsck(t *testing.T, disk string) {
	t.Helper()
	broken := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.Command("cp", "--sparse=always", disk, broken).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", disk, err, out)
	}
	defer os.Remove(broken)
	out, err := exec.Command("e2fsck", "-p", broken).CombinedOutput()
	t.Logf("e2fsck -p: %s", bytes.TrimSpace(out))
	if err != nil && (exitCode(err) != 1 || !bytes.Contains(out, []byte("recovering journal"))) {
		t.Errorf("the file system is more than unclean: %v: %s", err, out)
	}
	if out, err := exec.Command("e2fsck", "-fn", broken).CombinedOutput(); err != nil {
		t.Errorf("the file system is damaged: %v: %s", err, out)
	}
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

// consistent wants what is on a disk to be of one moment: writes were made one after the other, so all before the last are there.
func (d onDisk) consistent(t *testing.T) {
	t.Helper()
	if d.MissingRecords+d.MissingKept > 0 {
		t.Errorf("something is missing between what is there: %+v", d)
	}
	if d.Records < d.Kept*recordsPerKept || d.Kept+1 < d.Records/recordsPerKept {
		t.Errorf("records and kept files are of two moments: %+v", d)
	}
}

// promised says what the mode promises of what a client was told.
func promised(mode string, was told) told {
	switch mode {
	case "sync":
		return was
	case "flush":
		return told{was.kept * recordsPerKept, was.kept}
	}
	return told{}
}

// TestAnExt4SurvivesItsSiteInEveryMode loses the site under a guest that writes on files, and looks at the file system at the other one; then
// that one is lost, and so on. In the second, whatever can die in a failover dies.
func TestAnExt4SurvivesItsSiteInEveryMode(t *testing.T) {
	s := onFiles
	s.image = emptyExt4(t)
	w := up(t, "acc-ext4", "--bandwidth", "400mbit")
	w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, "sync")))
	w.answering(t)
	w.inStep(t, s.site, "sync")
	there := w.mount(t)
	for _, mode := range []string{"sync", "flush", "async"} {
		ok := t.Run(mode, func(t *testing.T) {
			if mode != "sync" {
				w.must(t, "lab", "link", "--name", w.name, "restore", otherSite(s.site))
				w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, mode)))
				w.inStep(t, s.site, mode)
			}
			there = w.loseTheSite(t, s.site, mode, there)
			s.site = otherSite(s.site)
		})
		if !ok {
			t.Fatal("the rest begins from where this one ended, and is not tried")
		}
	}
	w.write(t, there.told()).awaitTold(t, 20)
}

// loseTheSite writes on files, loses the site, and compares what is at the other one with what a client was told, and the mode promises.
func (w *world) loseTheSite(t *testing.T, from, mode string, before onDisk) onDisk {
	t.Helper()
	to := otherSite(from)
	c := w.write(t, before.told())
	c.awaitTold(t, 80)
	if mode == "async" {
		// What is not shipped is lost, and has to be lost in order. So something is not shipped.
		w.must(t, "lab", "link", "--name", w.name, "cut", to)
		c.awaitTold(t, 40)
	}
	w.strike(t, from)
	was := c.told(t)
	c.stop()
	how := ""
	switch mode {
	case "async":
		w.must(t, "lab", "link", "--name", w.name, "restore", to)
		w.failover(t)
	case "flush":
		how = fmt.Sprintf(" | %s die: %s", allDie.what, w.failoverThrough(t, allDie, to))
	default:
		w.failover(t)
	}
	fsck(t, w.copies(t)[to].Path)
	is := w.mount(t)
	is.consistent(t)
	want := promised(mode, was)
	if is.Records < want.records || is.Kept < want.kept {
		t.Errorf("a client was told of %+v, the mode promises %+v, there is %+v", was, want, is)
	}
	t.Logf("EXT4 | %s | told of %d records and %d kept files | %d and %d are there%s", mode, was.records, was.kept, is.Records, is.Kept, how)
	return is
}
