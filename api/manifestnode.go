package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// field is one key of a mapping: how its value is read, and whether it must be there.
type field struct {
	name     string
	required bool
	read     func(node ast.Node, path string)
}

// mapping reads a mapping's fields, and notes unknown, double and missing ones. It says whether node is a mapping.
func (d *decoder) mapping(node ast.Node, path string, fields []field) bool {
	values, ok := d.pairs(node, path)
	if !ok {
		return false
	}
	seen := map[string]bool{}
	for _, value := range values {
		key, ok := value.Key.(*ast.StringNode)
		if !ok {
			d.fail(value.Key, path, "want a field's name, got %s", describe(value.Key))
			continue
		}
		at := join(path, key.Value)
		index := slices.IndexFunc(fields, func(f field) bool { return f.name == key.Value })
		switch {
		case index < 0:
			d.fail(key, at, "unknown field%s", suggestion(key.Value, fields))
		case seen[key.Value]:
			d.fail(key, at, "stands here twice")
		case isNull(value.Value):
			d.fail(key, at, "has no value")
		default:
			fields[index].read(value.Value, at)
		}
		seen[key.Value] = true
	}
	for _, f := range fields {
		if f.required && !seen[f.name] {
			d.fail(node, join(path, f.name), "is missing")
		}
	}
	return true
}

func (d *decoder) pairs(node ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch at := node.(type) {
	case *ast.MappingNode:
		return at.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{at}, true
	default:
		d.fail(node, path, "want a mapping (key: value), got %s", describe(node))
		return nil, false
	}
}

// sequence calls read for each item of a list.
func (d *decoder) sequence(node ast.Node, path string, read func(item ast.Node, path string)) {
	items, ok := node.(*ast.SequenceNode)
	if !ok {
		d.fail(node, path, "want a list, got %s", describe(node))
		return
	}
	for i, item := range items.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		if isNull(item) {
			d.fail(items, at, "has no value")
			continue
		}
		read(item, at)
	}
}

// text reads a string; numbers and truth values have to be quoted.
func (d *decoder) text(node ast.Node, path string) (string, bool) {
	switch at := node.(type) {
	case *ast.StringNode:
		if strings.ContainsRune(at.Value, 0) {
			d.fail(node, path, "holds a zero byte")
			return "", false
		}
		return at.Value, true
	case *ast.LiteralNode:
		return at.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		d.fail(node, path, "want a string, got %s: put it in quotes", describe(node))
	default:
		d.fail(node, path, "want a string, got %s", describe(node))
	}
	return "", false
}

// integer reads a whole number that is not negative.
func (d *decoder) integer(node ast.Node, path string) (uint64, bool) {
	number, ok := node.(*ast.IntegerNode)
	if !ok {
		d.fail(node, path, "want a whole number, got %s", describe(node))
		return 0, false
	}
	switch value := number.Value.(type) {
	case uint64:
		return value, true
	case int64:
		if value >= 0 {
			return uint64(value), true
		}
	}
	d.fail(node, path, "want a number that is not negative, got %s", describe(node))
	return 0, false
}

func isNull(node ast.Node) bool {
	return node == nil || node.Type() == ast.NullType
}

// describe names a value for an error: what it is and what it says.
func describe(node ast.Node) string {
	switch at := node.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AliasNode:
		return "an alias, which Godwit's manifests do not have"
	case *ast.AnchorNode:
		return "an anchor, which Godwit's manifests do not have"
	case *ast.TagNode:
		return "a tag, which Godwit's manifests do not have"
	case *ast.StringNode:
		return fmt.Sprintf("the string %q", shorten(at.Value))
	case *ast.LiteralNode:
		return "a text of several lines"
	case *ast.BoolNode:
		return fmt.Sprintf("the truth value %t", at.Value)
	default:
		if token := node.GetToken(); token != nil {
			return shorten(token.Value)
		}
		return "something else"
	}
}

func shorten(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// suggestion names the field that was perhaps meant, or all that there are.
func suggestion(name string, fields []field) string {
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		if strings.EqualFold(f.name, name) || distance(strings.ToLower(f.name), strings.ToLower(name)) <= len(f.name)/3 {
			return fmt.Sprintf(": did you mean %s?", f.name)
		}
		names = append(names, f.name)
	}
	return ": there are " + strings.Join(names, ", ")
}

// distance counts the letters to change, add or remove between two words. Long ones are not compared.
func distance(a, b string) int {
	const longest = 32
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
