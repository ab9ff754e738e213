package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// table is text in columns; the first row is the header.
type table struct {
	rows [][]string
	// coloured is the column whose cells have the colour of the state that they name; -1 for none.
	coloured int
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// lines returns the rows with their columns aligned, painted by paint.
func (t *table) lines(paint func(colour, text string) string) []string {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	out := make([]string, 0, len(t.rows))
	for r, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3)
			if i == len(row)-1 {
				padding = ""
			}
			switch {
			case r == 0:
				cell = paint(dim, cell)
			case i == t.coloured:
				cell = paint(phaseColour(cell), cell)
			}
			line.WriteString(cell + padding)
		}
		out = append(out, strings.TrimRight(line.String(), " "))
	}
	return out
}

// print writes the table to w.
func (a *app) printTable(w io.Writer, t *table) error {
	paint := func(colour, text string) string { return a.paint(w, colour, text) }
	_, err := io.WriteString(w, strings.Join(t.lines(paint), "\n")+"\n")
	return err
}
