package document

import (
	"os"
	"path/filepath"
	"testing"
)

var place = Place{Begin: "<!-- tables: begin -->", End: "<!-- tables: end -->"}

func TestOnlyWhatIsBetweenTheMarksIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "benchmarks.md")
	const before, after = "# Figures\n\nBy hand.\n\n", "\n\nMore by hand.\n"
	if err := os.WriteFile(path, []byte(before+place.Begin+"\nold\n"+place.End+after), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tables := range []string{"| a |\n", "| b |\n"} {
		if err := place.Replace(path, tables); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := before + place.Begin + "\n\n" + tables + "\n" + place.End + after; string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestADocumentWithoutMarksIsRefusedAndKept(t *testing.T) {
	for _, text := range []string{"", place.Begin, place.End + "\n" + place.Begin} {
		path := filepath.Join(t.TempDir(), "benchmarks.md")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if place.Check(path) == nil || place.Replace(path, "tables") == nil {
			t.Errorf("%q was accepted", text)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}
