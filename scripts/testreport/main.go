// Testreport reads the output of `go test -json` and prints what a person wants of it: one line a package, the whole output of
// what failed, and at the end which tests took long, and which were skipped and why. It exits with 1 when anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of test2json's output; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build that fails
	Test       string
	Output     string
	Elapsed    float64
}

// long is what a test takes that is named for it, in seconds.
const long = 20

func main() {
	failed, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if failed {
		os.Exit(1)
	}
}

func report(in io.Reader, out io.Writer) (failed bool, err error) {
	outputs := make(map[string]*strings.Builder) // by package and test, until its end is known
	var slow, skipped []string
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text())
			continue
		}
		key := e.Package + e.ImportPath + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if outputs[key] == nil {
				outputs[key] = new(strings.Builder)
			}
			outputs[key].WriteString(e.Output)
		case "fail", "build-fail":
			failed = true
			if b := outputs[key]; b != nil {
				io.WriteString(out, b.String())
			}
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(outputs[key])))
			}
		}
		if ended := e.Action == "pass" || e.Action == "fail" || e.Action == "skip"; ended {
			if e.Test == "" && e.Action != "skip" {
				fmt.Fprintf(out, "%-4s %-60s %6.1fs\n", e.Action, e.Package, e.Elapsed)
			}
			if e.Elapsed >= long && e.Test != "" && !strings.Contains(e.Test, "/") {
				slow = append(slow, fmt.Sprintf("%6.1fs %s %s", e.Elapsed, e.Package, e.Test))
			}
			delete(outputs, key)
		}
	}
	slices.Sort(slow)
	slices.Reverse(slow)
	list(out, slow, "took long")
	list(out, skipped, "skipped")
	return failed, lines.Err()
}

func list(out io.Writer, tests []string, what string) {
	if len(tests) > 0 {
		fmt.Fprintf(out, "\n%d %s:\n", len(tests), what)
	}
	for _, test := range tests {
		fmt.Fprintln(out, "  "+test)
	}
}

// reason is what the test said when it skipped itself: its output without the framework's lines and the file and line.
func reason(b *strings.Builder) string {
	if b == nil {
		return "no reason given"
	}
	var said []string
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			_, line, _ = strings.Cut(text, ": ")
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}
