package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/godwit-project/godwit/lab/namespace"
)

// Exec runs a command in a node and returns its exit code. An error means that it could not be run, or not to its end.
func (l *Lab) Exec(ctx context.Context, node string, argv []string, stdio Stdio) (exitCode int, err error) {
	n, err := findNode(node)
	if err != nil {
		return -1, err
	}
	if len(argv) == 0 {
		return -1, fmt.Errorf("run in %s: no command given", node)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.In, stdio.Out, stdio.Err
	cmd.WaitDelay = time.Second
	if err := startIn(namespaceOf(l.name, n.name), cmd); err != nil {
		return -1, fmt.Errorf("run in %s: %w", node, err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return -1, fmt.Errorf("run %s in %s: %w", argv[0], node, errors.Join(err, ctx.Err()))
	}
	return 0, nil
}

// Dial connects from a node. The address must be numeric: names are not resolved inside the lab.
func (l *Lab) Dial(ctx context.Context, node, network, address string) (net.Conn, error) {
	n, err := findNode(node)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = namespace.Do(namespaceOf(l.name, n.name), func() (err error) {
		var d net.Dialer // one numeric address is dialled on the calling thread
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", node, err)
	}
	return conn, nil
}

// devicesIn lists the network devices of a namespace but its loopback.
func devicesIn(space string) ([]string, error) {
	ns, err := netns.GetFromPath(namespace.Path(space))
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", space, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		// A name without its mount, as a crash may leave it: there is nothing in it.
		return nil, nil
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices of %s: %w", space, err)
	}
	var out []string
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			out = append(out, fmt.Sprintf("device %s in %s", l.Attrs().Name, space))
		}
	}
	return out, nil
}
