//go:build linux

package main

import (
	"os"
	"strings"
	"testing"
)

func newFiles(t *testing.T) *files {
	t.Helper()
	f, err := openFiles(t.TempDir())
	if err != nil {
		t.Skipf("this file system does not do O_DIRECT: %v", err)
	}
	t.Cleanup(f.close)
	return f
}

// fillFiles makes records and kept files up to the numbers.
func fillFiles(t *testing.T, f *files, records, kept uint64) {
	t.Helper()
	for n := uint64(1); n <= records; n++ {
		if err := f.writeRecord(n); err != nil {
			t.Fatal(err)
		}
	}
	for n := uint64(1); n <= kept; n++ {
		if err := f.keep(n); err != nil {
			t.Fatal(err)
		}
	}
}

func mustCheck(t *testing.T, f *files) found {
	t.Helper()
	r, err := f.check()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFilesAreAllThereAlsoWhenTheyGoRound(t *testing.T) {
	f := newFiles(t)
	if r := mustCheck(t, f); r != (found{}) {
		t.Errorf("nothing was written, found %+v", r)
	}
	fillFiles(t, f, recordSlots+7, keptWindow+5)
	want := found{Records: recordSlots + 7, Kept: keptWindow + 5}
	if r := mustCheck(t, f); r != want {
		t.Errorf("found %+v, want %+v", r, want)
	}
	again, err := openFiles(f.root)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if r := mustCheck(t, again); r != want {
		t.Errorf("opened again: found %+v, want %+v", r, want)
	}
}

func TestWhatIsLostOfFilesIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, f *files) error
		want   found
		first  string
	}{
		"a record that is an older one": {func(t *testing.T, f *files) error {
			_, err := f.records.WriteAt(alignedCopy(t, f, 0), 4*blockSize)
			return err
		}, found{Records: 10, MissingRecords: 1, Kept: 10}, "record 4: found 0"},
		"the last record": {func(t *testing.T, f *files) error {
			_, err := f.records.WriteAt(alignedCopy(t, f, 0), 10*blockSize)
			return err
		}, found{Records: 9, Kept: 10}, ""},
		"a kept file":         {func(t *testing.T, f *files) error { return os.Remove(f.keptPath(3)) }, found{Records: 10, MissingKept: 1, Kept: 10}, "kept file 3: 0 bytes"},
		"a kept file's end":   {func(t *testing.T, f *files) error { return os.Truncate(f.keptPath(3), 8) }, found{Records: 10, MissingKept: 1, Kept: 10}, "kept file 3: 8 bytes"},
		"the last file's end": {func(t *testing.T, f *files) error { return os.Truncate(f.keptPath(10), 0) }, found{Records: 10, Kept: 9}, ""},
		"the last kept file":  {func(t *testing.T, f *files) error { return os.Remove(f.keptPath(10)) }, found{Records: 10, Kept: 9}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFiles(t)
			fillFiles(t, f, 10, 10)
			if err := c.damage(t, f); err != nil {
				t.Fatal(err)
			}
			r := mustCheck(t, f)
			first := r.FirstMissing
			r.FirstMissing = ""
			if r != c.want || !strings.HasPrefix(first, c.first) {
				t.Errorf("found %+v, %q; want %+v, %q", r, first, c.want, c.first)
			}
		})
	}
}

// alignedCopy reads a slot's block.
func alignedCopy(t *testing.T, f *files, slot int64) []byte {
	t.Helper()
	b, err := alignedBlock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.records.ReadAt(b, slot*blockSize); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestControlPortWritesFilesOnlyWhereTheyAreMounted(t *testing.T) {
	m := newMachine(t)
	talkTo := func(requests string, want ...string) {
		t.Helper()
		lines := talk(t, m.serveControl, requests, len(want))
		for i, w := range want {
			if i >= len(lines) || !strings.Contains(lines[i], w) {
				t.Errorf("%q: answered %q, want %q", requests, lines, want)
				return
			}
		}
	}
	talkTo("write 1\ncheck\n", `"error":"write: the disk is not mounted"`, `"error":"check: the disk is not mounted"`)
	m.disk.rate.Store(1)
	talkTo("mount\n", `"error":"mount: this machine writes`)
	m.disk.rate.Store(0)
	m.files.mu.files = newFiles(t)
	talkTo("write 1\nkeep 1\nwrite 2\ncheck\n", `{"done":1}`, `{"done":1}`, `{"done":2}`, `{"records":2,"missing_records":0,"kept":1,"missing_kept":0,"first_missing":""}`)
	talkTo("write\nwrite 0\nkeep x\nset writes=5\nmeasure write 1\nmeasure read 0.01\n", `"error":"want`, "want a number from 1", "want a number from 1",
		"are the file system's", "would write over", `"median_us":`)
}

func TestMeasureRefusesWhatItCannotDo(t *testing.T) {
	m := newMachine(t)
	lines := talk(t, m.serveControl, "measure write 0.01\nmeasure sync 0.01\nmeasure\nmeasure trim 1\nmeasure read 0\nmeasure read 61\nmeasure read NaN\n", 7)
	if len(lines) != 7 {
		t.Fatalf("got %q", lines)
	}
	for i, want := range []string{`"per_second":`, `"per_second":`, `"error":"want`, `"error":"want`, "more than 0", "more than 0", "more than 0"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("answer %d is %s, want %s", i+1, lines[i], want)
		}
	}
	writeBlocks(t, m.disk, 1)
	if line := talk(t, m.serveControl, "measure write 0.01\n", 1); !strings.Contains(line[0], "would write over") {
		t.Errorf("somebody's disk: %q", line)
	}
}
