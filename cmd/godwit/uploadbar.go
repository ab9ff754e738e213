package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/godwit-project/godwit/api"
)

// redrawEvery bounds how often a line of a terminal is drawn again.
const redrawEvery = 50 * time.Millisecond

// uploadBar draws one progress bar for each file, on terminals only.
type uploadBar struct {
	app     *app
	path    string
	started time.Time
	drawn   time.Time
	open    bool
}

// show is told how far the upload of a file is.
func (b *uploadBar) show(path string, done, total int64) {
	width := b.app.width(b.app.err)
	if width == 0 {
		return
	}
	now := b.app.now()
	if path != b.path {
		b.end()
		b.path, b.started, b.drawn = path, now, time.Time{}
	}
	if done < total && now.Sub(b.drawn) < redrawEvery {
		return
	}
	b.drawn, b.open = now, true
	rate := float64(done) / max(now.Sub(b.started).Seconds(), 0.001)
	b.app.sayf("\r\x1b[K%s", cut(fmt.Sprintf("upload %-16s %s %s of %s   %s/s   %s", filepath.Base(path), bar(done, total, 24),
		api.FormatSize(done), api.FormatSize(total), api.FormatSize(int64(rate)), remaining(float64(total-done), rate)), width))
}

// end leaves the last bar as it is and goes to the next line.
func (b *uploadBar) end() {
	if b.open {
		b.app.sayf("\n")
	}
	b.open = false
}

// bar is done of total as a bar of so many columns.
func bar(done, total int64, columns int) string {
	if total <= 0 {
		return strings.Repeat("·", columns)
	}
	full := int(min(max(float64(done)/float64(total), 0), 1) * float64(columns))
	return strings.Repeat("█", full) + strings.Repeat("░", columns-full)
}

// remaining is the time that the rest takes at a rate, as "ETA 12 s".
func remaining(bytes, rate float64) string {
	if bytes <= 0 || rate <= 0 {
		return ""
	}
	return "ETA " + milliseconds(max(bytes/rate*1000, 1))
}

// cut shortens a line to so many columns; the line must hold no colours.
func cut(line string, columns int) string {
	runes := []rune(line)
	if len(runes) < columns {
		return line
	}
	return string(runes[:columns-2]) + "…"
}
