package dvshost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/unixsocket"
)

// ErrNotShared refuses to move a process to a node that may not know of its container, or to take one from it.
var ErrNotShared = errors.New("the policy does not share the container with that node: add the node to the container's nodes in it, and start the node that says so again")

// admission adds to a node's options who may do what. What the node runs in its own process, modules above all, is no stranger to it.
func (o NodeOptions) admission(n node.Options) node.Options {
	p := o.Policy
	if p == nil {
		return n
	}
	own := func(who node.Program) bool { return who.PID == os.Getpid() }
	n.Admit = func(who node.Program, container string) error {
		if own(who) {
			return nil
		}
		return p.Admit(who, container)
	}
	n.Permit = func(who node.Program, container, endpoint string) node.Mask {
		if own(who) {
			return node.MayAll
		}
		return p.Permit(who, container, endpoint)
	}
	n.Unlimited = func(who node.Program, container string) bool { return own(who) || p.Unlimited(who, container) }
	n.Share = p.Share
	return n
}

// shares refuses a container of which some of these nodes may not know.
func (h *Host) shares(container string, nodes ...string) error {
	for _, n := range nodes {
		if h.o.Share != nil && n != h.o.Name && !h.o.Share(n, container) {
			return fmt.Errorf("container %q at node %s, node %q: %w", container, h.o.Name, n, ErrNotShared)
		}
	}
	return nil
}

// sharesWithAsker is shares for whoever asks. Where nobody proves anything, everybody is believed.
func (h *Host) sharesWithAsker(ctx context.Context, container string) error {
	asker, _ := ctx.Value(askerKey{}).(names)
	if asker == nil || slices.ContainsFunc(asker, func(n string) bool { return n != "" && h.shares(container, n) == nil }) {
		return nil
	}
	return h.shares(container, asker...)
}

// listenUnix listens at a path that only this user may use, and the members of a group, if there is one. A socket that a dead node has left is
// replaced.
func listenUnix(path, group string) (*net.UnixListener, error) {
	if path == "" {
		return nil, errors.New("a path for the socket is needed")
	}
	directory, mode := filepath.Dir(path), fs.FileMode(0o700)
	if group != "" {
		mode = 0o711 // they may pass, and see nothing
	}
	if err := os.MkdirAll(directory, mode); err != nil {
		return nil, fmt.Errorf("make room for the socket: %w", err)
	}
	l, err := unixsocket.Listen(path)
	if errors.Is(err, unixsocket.ErrInUse) {
		err = fmt.Errorf("a node runs already: %w", err)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if group != "" {
		if err := letIn(path, group); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// letIn opens a socket to a group, by name or number.
func letIn(path, group string) error {
	id, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("let group %s in: this machine has none of that name: make it, or give another", group)
		}
		if id, err = strconv.Atoi(g.Gid); err != nil {
			return err
		}
	}
	if err := os.Chown(path, -1, id); err != nil {
		return fmt.Errorf("let group %s in: only root, and its members, can: %w", group, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("let group %s in: %w", group, err)
	}
	directory := filepath.Dir(path)
	i, err := os.Stat(directory)
	if err == nil && i.Mode().Perm()&0o011 == 0 {
		err = fmt.Errorf("let group %s in: nobody else may pass directory %s: chmod o+x it, or give another path for the socket", group, directory)
	}
	return err
}
