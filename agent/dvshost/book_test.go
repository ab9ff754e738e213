package dvshost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/migration"
)

func mustBook(t *testing.T, dir string) *book {
	t.Helper()
	b, err := openBook(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.close() })
	return b
}

func note(t *testing.T, b *book, k key, epoch uint64) {
	t.Helper()
	state, _, err := migration.New(migration.Spec{
		Name: "m", Service: k.String(), Epoch: epoch, Source: "a", Destination: "b", Plan: migration.Process(),
	}, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	err = b.change(k, func(e *entry) bool {
		e.Epoch = epoch
		e.Moves = map[uint64]record{epoch: {State: state, Memory: "x"}}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What was written is there when the book is opened again, also when the last line was cut off; the id stays.
func TestABookIsOpenedAgain(t *testing.T) {
	dir, k := t.TempDir(), key{"shop", "kv"}
	b := mustBook(t, dir)
	for epoch := range uint64(3000) { // enough to have the file written anew
		note(t, b, k, epoch+1)
	}
	note(t, b, key{"shop", "other"}, 7)
	path := filepath.Join(dir, bookFile)
	if info, err := os.Stat(path); err != nil || info.Size() > 3<<20 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"container":"shop","name":"kv","epoch":40`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again := mustBook(t, dir)
	e := again.get(k)
	if again.id != b.id || e.Epoch != 3000 || e.Moves[3000].State.Phase != migration.Preparing || again.get(key{"shop", "other"}).Epoch != 7 {
		t.Errorf("it holds %+v, id %s, was %s", e, again.id, b.id)
	}
}

// A directory is one node's, and a damaged file is not passed over.
func TestABookIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := mustBook(t, dir)
	if _, err := openBook(dir); err == nil || !strings.Contains(err.Error(), "another node uses it") {
		t.Errorf("a second node is told %v", err)
	}
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	damaged := `{"id":"x","boot":"` + thisBoot() + `"}` + "\nhello\n" + `{"container":"a","name":"b"}` + "\n"
	for _, text := range []string{"{}\n", "hello\n", damaged} {
		if err := os.WriteFile(filepath.Join(dir, bookFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openBook(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q is told as %v", text, err)
		}
	}
}

// After a power failure the end of a book may be damaged, and what it says may be old: its id tells.
func TestABookOfAnotherRunOfTheMachine(t *testing.T) {
	dir := t.TempDir()
	text := `{"id":"x","boot":"another"}` + "\n" + `{"container":"shop","name":"kv","epoch":7}` + "\n\x00\x00\n"
	if err := os.WriteFile(filepath.Join(dir, bookFile), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b := mustBook(t, dir)
	if b.id == "x@another" || b.get(key{"shop", "kv"}).Epoch != 7 {
		t.Errorf("it is %s and holds %+v", b.id, b.entries)
	}
}
