package dvshost

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/server/process"
)

// Errors of replicated processes that a user can do something about.
var (
	ErrReplicas   = errors.New("a replicated process needs three nodes or more, this one among them, each once: most of them have to agree on who answers")
	ErrReplicated = errors.New("a replicated process does not move: it is on all of its nodes already")
	errNoGroup    = errors.New("this node knows nothing of the group, or not any more")
)

// GroupSpec is a replicated process, as its nodes know it.
type GroupSpec struct {
	ID        string        `json:"id"` // random
	Container string        `json:"container"`
	Name      string        `json:"name"`
	Kind      replica.Kind  `json:"kind"`
	Nodes     []string      `json:"nodes"`
	Line      uint64        `json:"line"` // of its endpoint; the group's epochs count on from it
	Module    string        `json:"module"`
	Memory    int64         `json:"memory"`
	Time      time.Duration `json:"time"`
	Message   int           `json:"message"`
}

func (g GroupSpec) key() key { return key{g.Container, g.Name} }

// GroupAsk is a question to one that keeps a group's record.
type GroupAsk struct {
	ID  string       `json:"id"`
	Ask register.Ask `json:"ask"`
}

// RunReplicated starts a process on several nodes, which keep one state, and returns when all have it.
func (h *Host) RunReplicated(ctx context.Context, container, name string, module []byte, limits process.Limits, kind replica.Kind, nodes []string) error {
	k := key{container, name}
	if err := h.runReplicated(ctx, k, module, limits, kind, nodes); err != nil {
		return fmt.Errorf("run %s: %w", k, err)
	}
	return nil
}

func (h *Host) runReplicated(ctx context.Context, k key, module []byte, limits process.Limits, kind replica.Kind, nodes []string) error {
	nodes = slices.Sorted(slices.Values(nodes))
	if len(nodes) < 3 || len(slices.Compact(slices.Clone(nodes))) != len(nodes) || !slices.Contains(nodes, h.o.Name) {
		return ErrReplicas
	}
	if err := h.shares(k.container, nodes...); err != nil {
		return err
	}
	m, err := h.o.Engine.Load(ctx, module)
	if err != nil {
		return err
	}
	spec := GroupSpec{
		ID: randomID(), Container: k.container, Name: k.name, Kind: kind, Nodes: nodes, Line: max(1, h.Floor(k.container, k.name)),
		Module: m.ID().String(), Memory: limits.Memory, Time: limits.Time, Message: limits.Message,
	}
	for _, e := range h.o.Node.Endpoints() {
		if e.Container != k.container || e.Name != k.name {
			continue
		}
		if e.Node != "" {
			return dvs.ErrNameUsed
		}
		spec.Line = max(spec.Line, e.Version.Epoch+1, e.Fence+1)
	}
	for _, n := range nodes {
		if n == h.o.Name {
			err = h.Found(spec)
		} else if p, unknown := h.peerOf(n); unknown != nil {
			err = unknown
		} else if err = p.Found(ctx, spec); errors.Is(err, ErrModule) {
			if err = p.SendModule(ctx, module); err == nil {
				err = p.Found(ctx, spec)
			}
		}
		if err != nil {
			err = fmt.Errorf("node %s: %w", n, err)
			break
		}
	}
	if err == nil {
		err = h.Join(spec)
	}
	if err == nil {
		err = h.joined(ctx, spec)
	}
	if err != nil {
		h.EndGroup(context.WithoutCancel(ctx), spec)
	}
	return err
}

func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// joinTime is how long all of a group may take to have its state. They have its module before.
const joinTime = time.Minute

// joined waits until all of a group have its state, and one answers.
func (h *Host) joined(ctx context.Context, spec GroupSpec) error {
	m, err := h.member(spec.ID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	for {
		answers := slices.ContainsFunc(h.o.Node.Endpoints(), func(e node.EndpointInfo) bool {
			return e.Container == spec.Container && e.Name == spec.Name && e.Node != ""
		})
		if answers && len(m.replica.Members()) == len(spec.Nodes) {
			return nil
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("not all nodes have joined, or none answers: %w: %s", ctx.Err(), strings.Join(h.describe(context.WithoutCancel(ctx), spec), "; "))
			h.o.Log.Warn("DVS group not begun", "endpoint", spec.key(), "err", err) // whoever asked may have gone
			return err
		case <-m.replica.Done():
			return errors.Join(replica.ErrClosed, m.replica.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// describe asks the nodes of a group for their parts in it, for a person.
func (h *Host) describe(ctx context.Context, spec GroupSpec) (all []string) {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	for _, e := range h.o.Node.Endpoints() {
		if e.Container == spec.Container && e.Name == spec.Name {
			all = append(all, fmt.Sprintf("endpoint %s at %q, epoch %d", spec.key(), e.Node, e.Version.Epoch))
		}
	}
	for _, n := range spec.Nodes {
		var said string
		p, err := h.peerOf(n)
		switch {
		case n == h.o.Name:
			said, err = h.DescribeGroup(spec.ID)
		case err == nil:
			said, err = p.DescribeGroup(ctx, spec.ID)
		}
		if err != nil {
			said = err.Error()
		}
		all = append(all, fmt.Sprintf("node %s: %s", n, said))
	}
	return all
}

// DescribeGroup tells a person of this node's part in a group.
func (h *Host) DescribeGroup(id string) (string, error) {
	m, err := h.member(id)
	if err != nil {
		return "", err
	}
	return m.replica.Describe(), nil
}

// Found makes this node one of those that keep the group's record, in its book. A node that begins again without its book keeps it no longer.
func (h *Host) Found(spec GroupSpec) error {
	if _, err := h.moduleOf(spec.Module); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.acceptors[spec.ID] != nil {
		return nil
	}
	if m := h.groups[spec.key()]; m != nil { // whose record must not be lost
		return dvs.ErrNameUsed
	}
	a := &acceptor{k: spec.key(), nodes: spec.Nodes, Acceptor: new(register.Acceptor)}
	h.acceptors[spec.ID] = a
	return h.o.book.change(a.k, func(e *entry) bool {
		for old := range e.Records { // a group that had the name before has ended
			delete(h.acceptors, old)
		}
		e.Records = map[string]groupRecord{spec.ID: {Nodes: spec.Nodes}}
		return true
	})
}

// acceptor keeps a group's record.
type acceptor struct {
	*register.Acceptor
	k     key
	nodes []string // of the group
}

// remember takes the groups' records that this node keeps from its book.
func (h *Host) remember() {
	for k, e := range h.o.book.all() {
		for id, saved := range e.Records {
			h.acceptors[id] = &acceptor{k: k, nodes: saved.Nodes, Acceptor: saved.Acceptor()}
		}
	}
}

// Ask answers about the group's record.
func (h *Host) Ask(q GroupAsk) (register.Answer, error) {
	h.mu.Lock()
	a := h.acceptors[q.ID]
	h.mu.Unlock()
	if a == nil {
		return register.Answer{}, errNoGroup
	}
	return a.TakeSaved(q.Ask, func(s register.Saved) error {
		return h.o.book.change(a.k, func(e *entry) bool {
			if _, there := e.Records[q.ID]; there { // else the group has ended
				e.Records = maps.Clone(e.Records)
				e.Records[q.ID] = groupRecord{Saved: s, Nodes: a.nodes}
			}
			return true
		})
	})
}

// nodesOf returns the nodes of a group whose record is kept here, or nil.
func (h *Host) nodesOf(id string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.acceptors[id]; a != nil {
		return a.nodes
	}
	return nil
}

// proposer names who proposes changes of a group's record for a node; no two are the same.
func proposer(node string) string { return node + "/" + randomID() }

// mayAsk refuses a question about a group's record that does not come from one of its nodes.
func (h *Host) mayAsk(ctx context.Context, q GroupAsk) error {
	name := q.Ask.Ballot.Name
	node := name[:max(0, strings.LastIndexByte(name, '/'))]
	if nodes := h.nodesOf(q.ID); nodes != nil && !slices.Contains(nodes, node) {
		return fmt.Errorf("node %q is none of the group's, %v: %w", node, nodes, ErrSpeaksFor)
	}
	return speaksFor(ctx, node)
}

func (h *Host) moduleOf(name string) (*process.Module, error) {
	var id process.ID
	if b, err := hex.DecodeString(name); err != nil || copy(id[:], b) != len(id) {
		return nil, fmt.Errorf("%q is no module's name", name)
	}
	m := h.o.Engine.Loaded(id)
	if m == nil {
		return nil, ErrModule
	}
	return m, nil
}

// member returns this node's part in a group.
func (h *Host) member(id string) (*member, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.groups {
		if m.spec.ID == id {
			return m, nil
		}
	}
	return nil, errNoGroup
}

// EndGroup ends a replicated process on all nodes that can be reached; those that cannot hear of it when they ask others to join.
func (h *Host) EndGroup(ctx context.Context, spec GroupSpec) {
	h.endHere(ctx, spec)
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	for _, n := range spec.Nodes {
		if p := h.peer(n); p != nil {
			if err := p.EndGroup(ctx, spec); err != nil {
				h.o.Log.Info("DVS node not told of the end of a group", "endpoint", spec.key(), "node", n, "err", err)
			}
		}
	}
}

// endHere ends this node's part, for good.
func (h *Host) endHere(ctx context.Context, spec GroupSpec) {
	h.mu.Lock()
	h.ended[spec.ID] = true
	delete(h.acceptors, spec.ID)
	if err := h.o.book.change(spec.key(), func(e *entry) bool {
		_, there := e.Records[spec.ID]
		e.Records = maps.Clone(e.Records)
		delete(e.Records, spec.ID)
		return there
	}); err != nil {
		h.o.Log.Warn("DVS group's record not removed", "endpoint", spec.key(), "err", err)
	}
	m := h.groups[spec.key()]
	if m != nil && m.spec.ID == spec.ID {
		delete(h.groups, spec.key())
	} else {
		m = nil
	}
	h.mu.Unlock()
	if m != nil {
		m.unbind(ctx)
		m.close()
	}
}
