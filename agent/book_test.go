package agent

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

func opened(t *testing.T, dir string) *book {
	t.Helper()
	b, err := openBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheBookIsReadAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	b := opened(t, dir)
	for _, durable := range []bool{true, false} {
		err := b.change("shop", durable, func(e *entry) error {
			e.Home, e.Importing = e.Home+1, append(e.Importing, "root")
			e.Journal.Admit(7, prepare)
			return e.Journal.Record(7, prepare)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := b.change("mail", false, func(e *entry) error { e.Home = 3; return nil }); err != nil {
		t.Fatal(err)
	}
	again := opened(t, dir)
	if got := again.services(); !slices.Equal(got, []string{"mail", "shop"}) {
		t.Errorf("services are %v", got)
	}
	again.view("shop", func(e entry) {
		if e.Home != 2 || len(e.Importing) != 2 || !e.Journal.Recorded(7, prepare) {
			t.Errorf("entry is %+v", e)
		}
	})
	again.view("unknown", func(e entry) {
		if e.Home != 0 || e.Journal.Epoch != 0 {
			t.Errorf("entry of an unknown service is %+v", e)
		}
	})
	left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestAChangeThatFailsIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	b := opened(t, dir)
	if err := b.change("shop", false, func(e *entry) error { e.Home = 1; return nil }); err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("no")
	if err := b.change("shop", false, func(*entry) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("error is %v", err)
	}
	if err := b.change("new", false, func(*entry) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("error is %v", err)
	}
	if got := opened(t, dir).services(); !slices.Equal(got, []string{"shop"}) {
		t.Errorf("services are %v", got)
	}
}

func TestADamagedBookIsNotTakenForAnEmptyOne(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shop.json"), []byte(`{"journal":{"epo`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openBook(dir); err == nil || !strings.Contains(err.Error(), "shop.json") {
		t.Errorf("error is %v, want one that names the file", err)
	}
}

// What a killed agent had half written is in nobody's way.
func TestAHalfWrittenFileIsIgnored(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".tmp-123"), []byte(`{"jour`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := opened(t, dir).services(); len(got) != 0 {
		t.Errorf("services are %v", got)
	}
}

func TestStreamsOfUndecidedAttemptsAreReportedLost(t *testing.T) {
	dir := t.TempDir()
	b := opened(t, dir)
	note := func(service string, epoch uint64, done []migration.StepID, last migration.StepID) {
		t.Helper()
		err := b.change(service, false, func(e *entry) error {
			for _, id := range done {
				e.Journal.Admit(epoch, id)
				if err := e.Journal.Record(epoch, id); err != nil {
					return err
				}
			}
			if last != "" {
				e.Journal.Admit(epoch, last)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	note("undecided", 5, []migration.StepID{prepare, replicates, converge}, "")
	note("aborted", 6, []migration.StepID{replicates}, abort)
	note("committed", 7, []migration.StepID{replicates}, "storage/source/release")
	note("lasting", 8, []migration.StepID{prepare}, "")
	note("working", 9, nil, replicates) // not done: the controller asks again

	b = opened(t, dir)
	lost := b.undecided(newFakeWorker().volatile)
	if len(lost) != 1 || lost[0].GetService() != "undecided" || lost[0].GetEpoch() != 5 || lost[0].GetRole() != "source" || lost[0].GetReason() == "" {
		t.Fatalf("lost: %v", lost)
	}
	if !b.still(lost[0]) {
		t.Error("the attempt is undecided, but the notice counts as out of date")
	}
	for name, change := range map[string]func(*entry) error{
		"an abort":       func(e *entry) error { e.Journal.Admit(5, abort); return nil },
		"a newer epoch":  func(e *entry) error { e.Journal.Admit(6, prepare); return nil },
		"another's life": func(e *entry) error { e.Journal = migration.Journal{}; return nil },
	} {
		fresh := opened(t, dir)
		if err := fresh.change("undecided", false, func(e *entry) error { return change(e) }); err != nil {
			t.Fatal(err)
		}
		if fresh.still(lost[0]) {
			t.Errorf("after %s the notice is still told", name)
		}
		if err := fresh.change("undecided", false, func(e *entry) error {
			b.view("undecided", func(was entry) { *e = was })
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if b.still(&pb.Notice{Service: "unknown", Epoch: 5}) {
		t.Error("a notice of an unknown service is told")
	}
}
