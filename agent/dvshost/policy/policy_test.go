package policy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost/policy"
	"github.com/godwit-project/godwit/dvs/node"
)

// names knows alice (1000) and the group shop (500).
var names = policy.Names{
	User:  func(name string) (int, error) { return oneOf(name, "alice", 1000) },
	Group: func(name string) (int, error) { return oneOf(name, "shop", 500) },
}

func oneOf(name, known string, id int) (int, error) {
	if name != known {
		return 0, errors.New("unknown")
	}
	return id, nil
}

const example = `containers:
  - name: shop
    nodes: [b, c]
    allow:
      - programs: [user:alice, group:77]
      - programs: [group:shop]
        endpoints: [kv, "cart-*"]
        may: [sendrec, notify]
      - programs: [group:shop]
        endpoints: ["log"]
        may: [send]
  - name: here
    nodes: []
    allow:
      - programs: [any]
        may: [call]
  - name: "*"
    allow:
      - programs: [user:0]
`

var (
	alice  = node.Program{Name: "x", UID: 1000, GID: 1000}
	member = node.Program{Name: "alice", UID: 1001, GID: 1001, Groups: []int{4, 500}}
	first  = node.Program{UID: 1002, GID: 500}
	other  = node.Program{Name: "alice", UID: 1003, GID: 1003, Groups: []int{1000}}
	root   = node.Program{}
)

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("p.yaml", strings.NewReader(text), names)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPolicyIsWhatItSays(t *testing.T) {
	p := parse(t, example)
	for _, c := range []struct {
		who       node.Program
		container string
		admitted  bool
		unlimited bool
		may       map[string]node.Mask
	}{
		{alice, "shop", true, true, map[string]node.Mask{"kv": node.MayAll, "other": node.MayAll}},
		{member, "shop", true, false, map[string]node.Mask{"kv": node.MaySendRec | node.MayNotify, "cart-": node.MaySendRec | node.MayNotify, "cart-7": node.MaySendRec | node.MayNotify, "log": node.MaySend, "kv2": 0, "cart": 0}},
		{first, "shop", true, false, map[string]node.Mask{"log": node.MaySend}},
		{other, "shop", false, false, map[string]node.Mask{"kv": 0}},
		{other, "here", true, true, map[string]node.Mask{"kv": node.MayCall}},
		{other, "elsewhere", false, false, map[string]node.Mask{"kv": 0}},
		{root, "elsewhere", true, true, map[string]node.Mask{"kv": node.MayAll}},
		{root, "shop", false, false, nil},
	} {
		err := p.Admit(c.who, c.container)
		if (err == nil) != c.admitted || err != nil && !strings.Contains(err.Error(), "p.yaml") {
			t.Errorf("%+v in %s: %v", c.who, c.container, err)
		}
		if got := p.Unlimited(c.who, c.container); got != c.unlimited {
			t.Errorf("%+v in %s: unlimited %v", c.who, c.container, got)
		}
		for name, want := range c.may {
			if got := p.Permit(c.who, c.container, name); got != want {
				t.Errorf("%+v and %s/%s: %b, want %b", c.who, c.container, name, got, want)
			}
		}
	}
	for where, want := range map[string]bool{"shop b": true, "shop d": false, "here b": false, "elsewhere d": true} {
		container, other, _ := strings.Cut(where, " ")
		if got := p.Share(other, container); got != want {
			t.Errorf("shared %s: %v", where, got)
		}
	}
	only := parse(t, "containers: [{name: shop, allow: [{programs: [any]}]}]")
	if only.Admit(root, "other") == nil || only.Share("b", "other") || only.Permit(root, "other", "x") != 0 {
		t.Error("a container that is not named is open")
	}
}

func TestWhatIsWrongWithAPolicyIsSaidWithItsLine(t *testing.T) {
	const one = "containers:\n  - name: shop\n    allow:\n      - programs: [any]\n"
	for _, c := range []struct{ what, text, want string }{
		{"empty", "# nothing\n", "p.yaml:1: is empty"},
		{"no YAML", "containers: [", "p.yaml:1: "},
		{"unknown field", one + "    node: [b]\n", "p.yaml:5: unknown field"},
		{"double field", one + "    name: b\n", "p.yaml:5: "},
		{"none", "containers: []\n", "p.yaml:1: containers: names none"},
		{"no list", "containers: shop\n", "p.yaml:1: "},
		{"no name", "containers:\n  - allow: [{programs: [any]}]\n", "p.yaml:2: containers[0].name: want the name"},
		{"twice", one + "  - name: shop\n    allow: [{programs: [any]}]\n", "p.yaml:5: containers[1].name: container \"shop\" stands here twice"},
		{"pattern", strings.Replace(one, "shop", "'shop*'", 1), "p.yaml:2: containers[0].name: \"shop*\" is no pattern"},
		{"nobody", "containers:\n  - name: shop\n", "p.yaml:2: containers[0].allow: is missing"},
		{"no programs", one + "      - may: [bind]\n", "p.yaml:5: containers[0].allow[1].programs: is missing"},
		{"unknown user", one + "      - programs:\n        - user:alice\n        - user:alicia\n", "p.yaml:7: containers[0].allow[1].programs[1]: this machine has no user \"alicia\""},
		{"unknown group", one + "      - programs: [group:alice]\n", "this machine has no group \"alice\""},
		{"no kind", one + "      - programs: [alice]\n", "p.yaml:5: containers[0].allow[1].programs[0]: \"alice\" is no program's user"},
		{"negative", one + "      - programs: ['user:-1']\n", "no user \"-1\""},
		{"no word", one + "        may: [fly]\n", "p.yaml:5: containers[0].allow[0].may[0]: \"fly\" is nothing that can be allowed: want all, bind, call"},
		{"may nothing", one + "        may: []\n", "allows nothing"},
		{"no endpoint", one + "        endpoints: []\n", "names none"},
		{"star within", one + "        endpoints: ['a*b']\n", "as in cart-*"},
		{"left open", one + "        endpoints:\n", "p.yaml:5: has no value"},
		{"nodes left open", "containers:\n  - name: shop\n    nodes:\n    allow: [{programs: [any]}]\n", "p.yaml:3: has no value"},
		{"bad node", one + "    nodes: ['*']\n", "p.yaml:5: containers[0].nodes[0]: want the name of a node"},
		{"alias", "containers:\n  - name: &n shop\n    allow: [{programs: [any]}]\n    nodes: [*n]\n", "write it out"},
		{"two documents", one + "---\n" + one, "p.yaml:6: is a second document"},
		{"a colon in braces", "containers: [{name: shop, allow: [{programs: [user:1]}]}]", "want text here, not fields (name: value); text with a colon"},
		{"text for a list", one + "        may: all\n", "p.yaml:5: string was used where sequence is expected"},
		{"large", "# " + strings.Repeat("x", 256<<10), "larger than 256 KiB"},
	} {
		_, err := policy.Parse("p.yaml", strings.NewReader(c.text), names)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.what, err, c.want)
		}
	}
}

func TestTheMachineHasRoot(t *testing.T) {
	p, err := policy.Parse("p.yaml", strings.NewReader("containers: [{name: c, allow: [{programs: ['user:root']}]}]"), policy.MachineNames())
	if err != nil {
		t.Skip("a machine without root:", err)
	}
	if p.Admit(root, "c") != nil || p.Admit(alice, "c") == nil {
		t.Error("root is not 0")
	}
}

// Whatever is in the file, there is an error with a line, or a policy that opens no container that the text does not name.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("containers: [{name: a, allow: [{programs: [any]}]}]")
	f.Add("containers: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := policy.Parse("p.yaml", strings.NewReader(text), names)
		if err != nil {
			if at := (*policy.Error)(nil); !errors.As(err, &at) || at.Line < 1 || at.Text == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if !strings.Contains(text, "*") {
			for i := range 3 {
				if name := fmt.Sprint("never ", i, len(text)); p.Admit(alice, name) == nil || p.Share("b", name) {
					t.Fatalf("%s is open", name)
				}
			}
		}
	})
}
