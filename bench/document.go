package main

import (
	"fmt"
	"os"
	"strings"
)

// The tables stand between these lines of the document; what is outside them is written by hand.
const (
	beginMark = "<!-- written by make bench: begin -->"
	endMark   = "<!-- written by make bench: end -->"
)

// checkDocument fails if the tables could not be put there.
func checkDocument(path string) error {
	text, err := os.ReadFile(path)
	if err == nil {
		_, err = between(string(text), "")
	}
	if err != nil {
		return fmt.Errorf("look for the place of the tables in %s: %w", path, err)
	}
	return nil
}

// replaceTables puts the tables into the document.
func replaceTables(path, tables string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	text, err := between(string(old), tables)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	return nil
}

func between(text, tables string) (string, error) {
	before, rest, begun := strings.Cut(text, beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !begun || !ended {
		return "", fmt.Errorf("it has no lines %q and %q in this order", beginMark, endMark)
	}
	return before + beginMark + "\n\n" + strings.TrimSpace(tables) + "\n\n" + endMark + after, nil
}
