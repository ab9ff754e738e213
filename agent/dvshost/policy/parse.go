package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/wire"
)

// maxFile bounds what is read, in bytes; a container takes a hundred or two.
const maxFile = 256 << 10

// words are what "may" may say.
var words = map[string]node.Mask{
	"send": node.MaySend, "sendrec": node.MaySendRec, "notify": node.MayNotify, "copy-read": node.MayCopyRead, "copy-write": node.MayCopyWrite,
	"bind": node.MayBind, "call": node.MayCall, "all": node.MayAll,
}

// Names finds the numbers of users and groups.
type Names struct {
	User, Group func(name string) (int, error)
}

// MachineNames are those of this machine.
func MachineNames() Names {
	return Names{
		User: func(name string) (int, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(u.Uid)
		},
		Group: func(name string) (int, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(g.Gid)
		},
	}
}

// Error is what is wrong with a policy, and where.
type Error struct {
	File string
	Line int    // from one
	Path string // the field: "containers[0].allow"; "" when it is not one field's fault
	Text string
}

// Error is FILE:LINE: PATH: TEXT.
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s: %s", e.File, e.Line, e.Path, e.Text)
}

// Load reads a policy from a file.
func Load(name string) (*Policy, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	return Parse(name, f, MachineNames())
}

// document is the file as it is written.
type document struct {
	Containers []struct {
		Name  string    `yaml:"name"`
		Nodes *[]string `yaml:"nodes"`
		Allow []struct {
			Programs  []string  `yaml:"programs"`
			Endpoints *[]string `yaml:"endpoints"`
			May       *[]string `yaml:"may"`
		} `yaml:"allow"`
	} `yaml:"containers"`
}

// Parse reads a policy. What it does not know it refuses; the error is an *Error, of the first thing that is wrong.
func Parse(name string, r io.Reader, names Names) (*Policy, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	d := &decoder{file: name, names: names}
	if err := d.parse(text); err != nil {
		return nil, err
	}
	return d.policy()
}

// decoder knows where in the file things stand.
type decoder struct {
	file  string
	names Names
	body  ast.Node
	doc   document
}

// fail is about a field; an element of a path that is not there leaves that of the one around it.
func (d *decoder) fail(path, format string, args ...any) error {
	return &Error{File: d.file, Line: d.line(path), Path: path, Text: fmt.Sprintf(format, args...)}
}

func (d *decoder) line(path string) int {
	for path != "" {
		if at, err := yaml.PathString("$." + path); err == nil {
			if n, err := at.FilterNode(d.body); err == nil && n != nil {
				return lineOf(n)
			}
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 1
}

// lineOf is where a node begins: a mapping begins with its first key.
func lineOf(n ast.Node) int {
	switch at := n.(type) {
	case *ast.MappingNode:
		if !at.IsFlowStyle && len(at.Values) > 0 {
			return lineOf(at.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return lineOf(at.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

// parse decodes the text. The parser panics on some malformed input; to the user that is a syntax error like the others.
func (d *decoder) parse(text []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = d.fail("", "is not YAML")
		}
	}()
	if len(text) > maxFile {
		return d.fail("", "is larger than %d KiB: this is no policy", maxFile>>10)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return d.located(err)
	}
	for _, one := range file.Docs {
		if one == nil || one.Body == nil || one.Body.Type() == ast.CommentType || one.Body.Type() == ast.NullType {
			continue
		}
		if d.body != nil {
			return &Error{File: d.file, Line: lineOf(one.Body), Text: "is a second document: a policy is one, leave '---' out"}
		}
		d.body = one.Body
	}
	if d.body == nil {
		return d.fail("", "is empty: want 'containers:', see godwit dvs policy --help")
	}
	for kind, text := range map[ast.NodeType]string{
		ast.AnchorType: "has an anchor: write it out", ast.AliasType: "has an alias: write it out",
		ast.NullType: "has no value: give one, or leave the field out", // it would be as if left out, which allows more
	} {
		if all := ast.Filter(kind, d.body); len(all) > 0 {
			return &Error{File: d.file, Line: lineOf(all[0]), Text: text}
		}
	}
	if err := yaml.NodeToValue(d.body, &d.doc, yaml.Strict()); err != nil {
		return d.located(err)
	}
	return nil
}

// located is an error of the library, with the line of it.
func (d *decoder) located(err error) error {
	e := &Error{File: d.file, Line: 1, Text: err.Error()}
	if at := yaml.Error(nil); errors.As(err, &at) {
		e.Text = at.GetMessage()
		if wrong, is := errors.AsType[*yaml.TypeError](err); is {
			e.Text = fmt.Sprintf("want %s here, not %s; text with a colon in braces needs quotes", describe(wrong.DstType), describe(wrong.SrcType))
		}
		if t := at.GetToken(); t != nil && t.Position != nil {
			e.Line = t.Position.Line
		}
	}
	return e
}

// describe says what a type is in a file.
func describe(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "fields (name: value)"
	case reflect.Pointer:
		return describe(t.Elem())
	default:
		return "a " + t.String()
	}
}

func (d *decoder) policy() (*Policy, error) {
	p := &Policy{file: d.file, containers: map[string]*container{}}
	if len(d.doc.Containers) == 0 {
		return nil, d.fail("containers", "names none: then nobody could enter any. Want at least one, see godwit dvs policy --help")
	}
	for i, one := range d.doc.Containers {
		path := fmt.Sprintf("containers[%d]", i)
		switch {
		case one.Name == "" || len(one.Name) > wire.MaxName:
			return nil, d.fail(path+".name", "want the name of a container, or %q for all that are not named here", rest)
		case p.containers[one.Name] != nil:
			return nil, d.fail(path+".name", "container %q stands here twice: join the two", one.Name)
		case strings.Contains(one.Name, "*") && one.Name != rest:
			return nil, d.fail(path+".name", "%q is no pattern: want a name, or %q for all that are not named here", one.Name, rest)
		case len(one.Allow) == 0:
			return nil, d.fail(path+".allow", "is missing: nobody could enter %q. For everybody write 'allow: [{programs: [any]}]'", one.Name)
		}
		c := &container{closed: one.Nodes != nil}
		if one.Nodes != nil {
			c.nodes = *one.Nodes
		}
		for j, n := range c.nodes {
			if n == "" || len(n) > wire.MaxName || strings.Contains(n, "*") {
				return nil, d.fail(fmt.Sprintf("%s.nodes[%d]", path, j), "want the name of a node, as its certificate has it; for all nodes leave 'nodes' out")
			}
		}
		for j, a := range one.Allow {
			r, err := d.rule(fmt.Sprintf("%s.allow[%d]", path, j), a.Programs, a.Endpoints, a.May)
			if err != nil {
				return nil, err
			}
			c.rules = append(c.rules, r)
		}
		p.containers[one.Name] = c
	}
	return p, nil
}

func (d *decoder) rule(path string, programs []string, endpoints, may *[]string) (r rule, err error) {
	if len(programs) == 0 {
		return r, d.fail(path+".programs", "is missing: want some of user:NAME, group:NAME, user:NUMBER, group:NUMBER, any")
	}
	for i, one := range programs {
		w, err := d.who(fmt.Sprintf("%s.programs[%d]", path, i), one)
		if err != nil {
			return r, err
		}
		r.who = append(r.who, w)
	}
	if endpoints != nil {
		r.endpoints = *endpoints
		if len(r.endpoints) == 0 {
			return r, d.fail(path+".endpoints", "names none: leave it out for all")
		}
	}
	for i, one := range r.endpoints {
		if one == "" || len(one) > wire.MaxName || strings.Contains(strings.TrimSuffix(one, "*"), "*") {
			return r, d.fail(fmt.Sprintf("%s.endpoints[%d]", path, i), "want the name of an endpoint, or the beginning of names and a star, as in cart-*")
		}
	}
	if may == nil {
		r.may = node.MayAll
		return r, nil
	}
	for i, one := range *may {
		m, ok := words[one]
		if !ok {
			return r, d.fail(fmt.Sprintf("%s.may[%d]", path, i), "%q is nothing that can be allowed: want %s", one, known())
		}
		r.may |= m
	}
	if r.may == 0 {
		return r, d.fail(path+".may", "allows nothing: leave it out for everything")
	}
	return r, nil
}

func (d *decoder) who(path, text string) (who, error) {
	kind, name, _ := strings.Cut(text, ":")
	find := map[string]func(string) (int, error){byUser: d.names.User, byGroup: d.names.Group}[kind]
	switch {
	case text == anybody:
		return who{kind: anybody}, nil
	case find == nil || name == "":
		return who{}, d.fail(path, "%q is no program's user: want user:NAME, group:NAME, user:NUMBER, group:NUMBER, or any", text)
	}
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return who{kind, int(id)}, nil
	}
	id, err := find(name)
	if err != nil {
		return who{}, d.fail(path, "this machine has no %s %q: correct it, or give the number", kind, name)
	}
	return who{kind, id}, nil
}

func known() string {
	var all []string
	for w := range words {
		all = append(all, w)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
