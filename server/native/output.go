package native

import (
	"bytes"
	"sync"
)

// Lines is an Output that cuts what a program writes into lines, and keeps the last ones for who asks why it ended.
type Lines struct {
	say func(line string)

	mu   sync.Mutex
	part []byte
	last []string
}

const (
	maxLine  = 4096
	keptLast = 5
)

// NewLines returns an output that says each line.
func NewLines(say func(line string)) *Lines { return &Lines{say: say} }

// Write takes in what a program has written.
func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		end := bytes.IndexByte(l.part, '\n')
		if end < 0 && len(l.part) < maxLine {
			return len(b), nil
		}
		next := end + 1
		if end < 0 || end > maxLine {
			end, next = maxLine, maxLine
		}
		line := string(l.part[:end])
		l.part = append(l.part[:0], l.part[next:]...)
		if l.last = append(l.last, line); len(l.last) > keptLast {
			l.last = l.last[1:]
		}
		l.say(line)
	}
}

// Last returns the last lines.
func (l *Lines) Last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.last...)
}
