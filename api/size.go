package api

import (
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// ParseSize reads a size as users write it: a whole number of bytes, or a number with KiB, MiB, GiB or TiB.
func ParseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BKMGTikmgtb ")
	unit := strings.TrimSpace(text[len(digits):])
	var shift uint
	switch unit {
	case "", "B":
	case "KiB":
		shift = 10
	case "MiB":
		shift = 20
	case "GiB":
		shift = 30
	case "TiB":
		shift = 40
	default:
		return 0, fmt.Errorf("%q has the unit %q: write KiB, MiB, GiB or TiB", shorten(text), unit)
	}
	const longest = 24
	if digits == "" || len(digits) > longest || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is no size, such as 256MiB", shorten(text))
	}
	number, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, fmt.Errorf("%q is no size, such as 256MiB", shorten(text))
	}
	number.Mul(number, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), shift)))
	if !number.IsInt() {
		return 0, fmt.Errorf("%q is no whole number of bytes", shorten(text))
	}
	if !number.Num().IsInt64() {
		return 0, fmt.Errorf("%q is too large", shorten(text))
	}
	return number.Num().Int64(), nil
}

// FormatSize writes a number of bytes for people, with three digits and the unit that fits: "61.5 MiB".
func FormatSize(bytes int64) string {
	value, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if math.Abs(value) < 1000 {
			break
		}
		value, unit = value/1024, next
	}
	switch {
	case unit == "B":
		return fmt.Sprintf("%d B", bytes)
	case math.Abs(value) >= 100 || value == math.Trunc(value):
		return fmt.Sprintf("%.0f %s", value, unit)
	default:
		return fmt.Sprintf("%.3g %s", value, unit)
	}
}

// size reads one that is at least low and a multiple of step.
func (d *decoder) size(into *int64, low, step int64) func(ast.Node, string) {
	return func(node ast.Node, path string) {
		size, ok := d.bytes(node, path)
		switch {
		case !ok:
		case size < low:
			d.fail(node, path, "want at least %s, got %s", FormatSize(low), FormatSize(size))
		case size%step != 0:
			d.fail(node, path, "want a multiple of %s, got %d bytes", FormatSize(step), size)
		default:
			*into = size
		}
	}
}

func (d *decoder) bytes(node ast.Node, path string) (int64, bool) {
	switch at := node.(type) {
	case *ast.IntegerNode:
		size, ok := d.integer(node, path)
		if ok && size > math.MaxInt64 {
			d.fail(node, path, "%d is too large", size)
			return 0, false
		}
		return int64(size), ok
	case *ast.StringNode:
		size, err := ParseSize(at.Value)
		if err != nil {
			d.fail(node, path, "%v", err)
			return 0, false
		}
		return size, true
	default:
		d.fail(node, path, "want a size, such as 256MiB, got %s", describe(node))
		return 0, false
	}
}
