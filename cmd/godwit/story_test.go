package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStories plays testdata/*.txt: each line "$ COMMAND" is followed by what the command prints: its standard output, its
// standard error with "! " before each line, and its exit code when it is not zero. 'go test ./cmd/godwit -args update' writes
// the answers down anew; read the difference before you believe it.
func TestStories(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(stories) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, path := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if update() {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s has changed:\n%s", path, difference(string(want), got))
			}
		})
	}
}

func play(t *testing.T, story string) string {
	server := serveFake(t)
	var out strings.Builder
	for line := range strings.Lines(story) {
		switch {
		case strings.HasPrefix(line, "#"):
			out.WriteString(line)
		case strings.HasPrefix(line, "$ godwit"):
			out.WriteString(line)
			out.WriteString(answer(server, strings.Fields(line)[2:]))
		}
	}
	return out.String()
}

// answer runs one command line in this process. A word <FILE is its standard input.
func answer(server string, words []string) string {
	var stdout, stderr bytes.Buffer
	in := []byte(nil)
	if n := len(words); n > 0 && strings.HasPrefix(words[n-1], "<") {
		in, _ = os.ReadFile(words[n-1][1:])
		words = words[:n-1]
	}
	a := &app{in: bytes.NewReader(in), out: &stdout, err: &stderr, now: noon, env: func(name string) string {
		return map[string]string{"GODWIT_SERVER": server}[name]
	}}
	code := a.run(context.Background(), words)
	text := stdout.String()
	for line := range strings.Lines(stderr.String()) {
		text += "! " + line
	}
	if code != exitOK {
		text += fmt.Sprintf("exit %d\n", code)
	}
	return text + "\n"
}

func update() bool {
	for _, argument := range flag.Args() {
		if argument == "update" {
			return true
		}
	}
	return false
}

// difference shows the first line that differs, with what stands around it.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d:\nwant %s\ngot  %s\n", i+1, a[i], b[i])
		}
	}
	return fmt.Sprintf("want %d lines, got %d", len(a), len(b))
}
