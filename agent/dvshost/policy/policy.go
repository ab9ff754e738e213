// Package policy is who may enter which container of a node of the DVS, what they may do there, and which other nodes may know of it. It is pure but
// for the names of users and groups, which Parse asks the machine for once.
//
// A container that a policy does not have is closed: to all programs, and to all other nodes. Of a container that it has, a program may do what all the
// rules that name it allow together. Programs are who the kernel says they are, never who they say themselves.
package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/godwit-project/godwit/dvs/node"
)

// rest is the name of what stands for all containers that have no entry of their own.
const rest = "*"

// Policy is what a file says. It never changes, so that many may ask at once.
type Policy struct {
	file       string
	containers map[string]*container
}

type container struct {
	closed bool     // to all other nodes but those
	nodes  []string // sorted
	rules  []rule
}

// rule allows some programs to do something.
type rule struct {
	who       []who
	endpoints []string // the last byte of each may be a star; none are all
	may       node.Mask
}

// who is a user or a group; with neither it is everybody.
type who struct {
	kind string
	id   int
}

const (
	anybody = "any"
	byUser  = "user"
	byGroup = "group"
)

func (w who) is(p node.Program) bool {
	switch w.kind {
	case byUser:
		return p.UID == w.id
	case byGroup:
		return p.GID == w.id || slices.Contains(p.Groups, w.id)
	default:
		return true
	}
}

func (r rule) names(p node.Program) bool {
	return slices.ContainsFunc(r.who, func(w who) bool { return w.is(p) })
}

func (r rule) covers(endpoint string) bool {
	return len(r.endpoints) == 0 || slices.ContainsFunc(r.endpoints, func(pattern string) bool {
		if stem, open := strings.CutSuffix(pattern, "*"); open {
			return strings.HasPrefix(endpoint, stem)
		}
		return pattern == endpoint
	})
}

// entry returns what holds for a container, or nil.
func (p *Policy) entry(name string) *container {
	if c := p.containers[name]; c != nil {
		return c
	}
	return p.containers[rest]
}

// File returns the name of the file that it comes from.
func (p *Policy) File() string { return p.file }

// Admit returns an error, for the program, if it may not enter the container.
func (p *Policy) Admit(who node.Program, name string) error {
	c := p.entry(name)
	switch {
	case c == nil:
		return fmt.Errorf("the node's policy has no container %q: have it added to %s, and the node started again", name, p.file)
	case !slices.ContainsFunc(c.rules, func(r rule) bool { return r.names(who) }):
		return fmt.Errorf("uid %d, gid %d is named by no rule of container %q in the node's policy: have it added to %s, and the node started again", who.UID, who.GID, name, p.file)
	default:
		return nil
	}
}

// Permit returns what a program may do with an endpoint.
func (p *Policy) Permit(who node.Program, container, endpoint string) (m node.Mask) {
	if c := p.entry(container); c != nil {
		for _, r := range c.rules {
			if r.names(who) && r.covers(endpoint) {
				m |= r.may
			}
		}
	}
	return m
}

// Unlimited tells whether a program may call everything in the container, whatever is bound there later.
func (p *Policy) Unlimited(who node.Program, container string) bool {
	var m node.Mask
	if c := p.entry(container); c != nil {
		for _, r := range c.rules {
			if r.names(who) && (len(r.endpoints) == 0 || slices.Contains(r.endpoints, "*")) {
				m |= r.may
			}
		}
	}
	return m&node.MayCall == node.MayCall
}

// Share tells whether another node may know of the container.
func (p *Policy) Share(node, container string) bool {
	c := p.entry(container)
	return c != nil && (!c.closed || slices.Contains(c.nodes, node))
}
