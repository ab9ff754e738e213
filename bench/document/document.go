// Package document is what the benches share that are programs of different modules: where the tables stand in the document that they
// write, and how busy the machine was with other things. How the tables look is each bench's own.
package document

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// Place is where tables stand in a document: between two lines. What is outside them is written by hand.
type Place struct{ Begin, End string }

// Check fails if the tables could not be put there.
func (p Place) Check(path string) error {
	text, err := os.ReadFile(path)
	if err == nil {
		_, err = p.between(string(text), "")
	}
	if err != nil {
		return fmt.Errorf("look for the place of the tables in %s: %w", path, err)
	}
	return nil
}

// Replace puts the tables into the document.
func (p Place) Replace(path, tables string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	text, err := p.between(string(old), tables)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	return nil
}

func (p Place) between(text, tables string) (string, error) {
	before, rest, begun := strings.Cut(text, p.Begin)
	_, after, ended := strings.Cut(rest, p.End)
	if !begun || !ended {
		return "", fmt.Errorf("it has no lines %q and %q in this order", p.Begin, p.End)
	}
	return before + p.Begin + "\n\n" + strings.TrimSpace(tables) + "\n\n" + p.End + after, nil
}

// Others is how many of so many processors are busy while this program waits, which takes 3 s. The load average would not do: it still
// counts what the measurement before this one did.
func Others(processors int) float64 {
	const look, hertz = 3 * time.Second, 100 // USER_HZ is 100 on all that Go runs on
	before := idle()
	time.Sleep(look)
	return max(0, float64(processors)-(idle()-before)/hertz/look.Seconds())
}

// idle is how long the processors have had nothing to do, in ticks.
func idle() float64 {
	var user, nice, system, ticks, wait float64
	if text, err := os.ReadFile("/proc/stat"); err == nil { // proc_stat(5): cpu user nice system idle iowait …
		_, _ = fmt.Sscanf(string(text), "cpu %g %g %g %g %g", &user, &nice, &system, &ticks, &wait)
	}
	return ticks + wait
}
