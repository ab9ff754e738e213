package network

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustOpen(t interface {
	Helper()
	Fatal(...any)
}, dir string,
) *journal[int] {
	t.Helper()
	j, err := openJournal[int](dir, "j")
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// memory is a folder where thousands of syncs cost nothing, if there is one.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "godwit-network-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestJournalKeepsTheNewestValuesOverReopeningAndTornTails(t *testing.T) {
	base := memory(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		j, want := mustOpen(t, dir), map[string]int{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				key, value := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"), rapid.Int().Draw(t, "value")
				if err := j.put(key, value); err != nil {
					t.Fatal(err)
				}
				want[key] = value
			},
			"remove": func(t *rapid.T) {
				key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
				if err := j.remove(key); err != nil {
					t.Fatal(err)
				}
				delete(want, key)
			},
			"crash": func(t *rapid.T) {
				torn := rapid.SampledFrom([]string{"", "0", "0123abcd {\"key\":\"a\",\"va", "00000000 {}\n"}).Draw(t, "torn")
				if _, err := j.file.WriteString(torn); err != nil {
					t.Fatal(err)
				}
				j = mustOpen(t, dir)
			},
			"": func(t *rapid.T) {
				if got := j.all(); !maps.Equal(got, want) {
					t.Fatalf("has %v, want %v", got, want)
				}
			},
		})
	})
}

func TestJournalRefusesCorruptionInItsMiddle(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	for i := range 3 {
		if err := j.put("a", i); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "j")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(data), ":0}", ":7}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal[int](dir, "j"); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("opened: %v", err)
	}
}

func TestJournalStaysSmall(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	for i := range 2*compactAfter + 10 {
		if err := j.put("a", i); err != nil {
			t.Fatal(err)
		}
	}
	if j.lines > compactAfter+1 {
		t.Errorf("%d lines for one record", j.lines)
	}
	if got := mustOpen(t, dir).all()["a"]; got != 2*compactAfter+9 {
		t.Errorf("a is %d", got)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if j.put("a", 1) == nil {
		t.Error("a closed journal took a value")
	}
}
