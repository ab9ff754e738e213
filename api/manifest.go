package api

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// maxManifest bounds what is read; a service takes a few hundred bytes.
const maxManifest = 1 << 20

// DefaultNetwork is the address space of a service that names none.
const DefaultNetwork = "default"

// ManifestError is one thing that is wrong with a manifest.
type ManifestError struct {
	File string
	// Line and Column count from one.
	Line, Column int
	// Path is the field: "server.memory", "volumes[1].size"; empty when it is not one field's fault.
	Path    string
	Message string
}

// Error is FILE:LINE:COLUMN: PATH: MESSAGE.
func (e *ManifestError) Error() string {
	where := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Column)
	if e.Path != "" {
		where += e.Path + ": "
	}
	return where + e.Message
}

// ManifestErrors is everything that is wrong with a manifest, in the order of the text.
type ManifestErrors []*ManifestError

// Error has one line for each.
func (e ManifestErrors) Error() string {
	lines := make([]string, 0, len(e))
	for _, one := range e {
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// ParseManifest reads the services of a YAML manifest, which may have several documents. Nothing that it does not know is
// passed over: the error is a ManifestErrors with all that is wrong, each with its place. Kernel, initrd and images are
// paths on the user's machine; relative ones are taken from the directory of the manifest, whose path name is. Whether
// those files exist is not looked at. Names of blobs stand for themselves.
func ParseManifest(name string, r io.Reader) ([]*godwitv1.ServiceSpec, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	d := &decoder{file: name, dir: filepath.Dir(name)}
	if len(text) > maxManifest {
		d.failAt(1, 1, "", "is larger than %d KiB: this is no manifest", maxManifest>>10)
		return nil, d.errors
	}
	documents := d.parse(text)
	var specs []*godwitv1.ServiceSpec
	seen := map[string]bool{}
	for _, document := range documents {
		spec := d.service(document)
		if spec == nil {
			continue
		}
		if spec.GetName() != "" && seen[spec.GetName()] {
			d.fail(document, "name", "service %q stands in this manifest twice", spec.GetName())
		}
		seen[spec.GetName()] = true
		specs = append(specs, spec)
	}
	if len(d.errors) == 0 && len(specs) == 0 {
		d.failAt(1, 1, "", "holds no service: begin with 'kind: Service'")
	}
	if len(d.errors) > 0 {
		slices.SortStableFunc(d.errors, func(a, b *ManifestError) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, d.errors
	}
	return specs, nil
}

// decoder gathers what is wrong.
type decoder struct {
	file, dir string
	errors    ManifestErrors
}

// parse returns the documents that are not empty. The parser panics on some malformed input; to the user that is a syntax
// error like the others.
func (d *decoder) parse(text []byte) (documents []ast.Node) {
	defer func() {
		if recover() != nil {
			documents = nil
			d.failAt(1, 1, "", "is not YAML")
		}
	}()
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return nil
	}
	for _, document := range file.Docs {
		if document == nil || document.Body == nil || document.Body.Type() == ast.NullType || document.Body.Type() == ast.CommentType {
			continue
		}
		documents = append(documents, document.Body)
	}
	return documents
}

func (d *decoder) syntax(err error) {
	line, column, message := 1, 1, err.Error()
	if located := yaml.Error(nil); errors.As(err, &located) {
		message = located.GetMessage()
		if token := located.GetToken(); token != nil && token.Position != nil {
			line, column = token.Position.Line, token.Position.Column
		}
	}
	d.failAt(line, column, "", "is not YAML: %s", message)
}

// fail notes what is wrong at a node.
func (d *decoder) fail(node ast.Node, path, format string, args ...any) {
	line, column := position(node)
	d.failAt(line, column, path, format, args...)
}

func (d *decoder) failAt(line, column int, path, format string, args ...any) {
	d.errors = append(d.errors, &ManifestError{
		File: d.file, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// position is where a node's text begins; a mapping begins with its first key.
func position(node ast.Node) (line, column int) {
	switch at := node.(type) {
	case *ast.MappingNode:
		if !at.IsFlowStyle && len(at.Values) > 0 {
			return position(at.Values[0])
		}
	case *ast.MappingValueNode:
		return position(at.Key)
	case *ast.TagNode:
		if at.Start != nil && at.Start.Position != nil {
			return at.Start.Position.Line, at.Start.Position.Column
		}
	}
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return 1, 1
	}
	at := node.GetToken().Position
	return at.Line, at.Column
}
