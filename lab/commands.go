package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// commands are the command lines of godwit that the lab uses: all that it knows of the program's surface.
type commands struct {
	binary string
	dir    string
}

const (
	controllerPort = "7443"
	agentPort      = "7444"
)

func (c commands) socket() string { return filepath.Join(c.dir, "controller.sock") }
func (c commands) server() string { return "unix://" + c.socket() }

func (c commands) data(node, part string) string { return filepath.Join(c.dir, node, part) }

func (c commands) controllerAddress(n node) string {
	return net.JoinHostPort(n.address, controllerPort)
}

func (c commands) init(n node) []string {
	return []string{c.binary, "init", "--data", c.data(n.name, "controller"), "--name", n.name}
}

func (c commands) controller(n node) []string {
	address := c.controllerAddress(n)
	return []string{
		c.binary, "controller", "--data", c.data(n.name, "controller"),
		"--listen", address, "--advertise", address, "--socket", c.socket(),
	}
}

func (c commands) createToken(n node) []string {
	return []string{c.binary, "token", "create", "--server", c.server(), "--role", n.role, "--site", n.site, "--name", n.name}
}

func (c commands) join(n, controller node, token string) []string {
	return []string{
		c.binary, "join", "--token", token, "--controller", c.controllerAddress(controller), "--data", c.data(n.name, "agent"),
	}
}

// agent adds the routing of an edge: its address towards the core, and the core's, with which it speaks BGP.
func (c commands) agent(n node) []string {
	argv := []string{c.binary, "agent", "--data", c.data(n.name, "agent"), "--address", net.JoinHostPort(n.address, agentPort)}
	if n.role != roleEdge {
		return argv
	}
	up, err := uplink(n.site)
	if err != nil {
		return argv
	}
	return append(argv, "--uplink-address", up.b.address.Addr().String(),
		"--bgp-neighbor", up.a.address.Addr().String(), "--asn", strconv.Itoa(asn))
}

func (c commands) get(kind string) []string {
	return []string{c.binary, "get", kind, "--server", c.server(), "-o", "json"}
}

// token takes the token out of what token create printed: its last word.
func tokenIn(out []byte) (string, error) {
	words := strings.Fields(string(out))
	if len(words) == 0 {
		return "", fmt.Errorf("token create printed nothing")
	}
	return words[len(words)-1], nil
}

// notReady returns which of the nodes the controller does not call ready yet.
func (c commands) notReady(ctx context.Context, run func(context.Context, []string) ([]byte, error)) ([]string, error) {
	ready := make(map[string]bool)
	for _, kind := range []string{"hosts", "edges"} {
		out, err := run(ctx, c.get(kind))
		if err != nil {
			return nil, err
		}
		if err := collectReady(out, ready); err != nil {
			return nil, fmt.Errorf("read the answer of get %s: %w", kind, err)
		}
	}
	var missing []string
	for _, n := range nodes {
		if (n.role == roleHost || n.role == roleEdge) && !ready[n.name] {
			missing = append(missing, n.name)
		}
	}
	return missing, nil
}

// collectReady marks every object in the JSON that has a name and is ready, however the objects are wrapped.
func collectReady(data []byte, ready map[string]bool) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	for dec.More() {
		var v any
		if err := dec.Decode(&v); err != nil {
			return err
		}
		markReady(v, ready)
	}
	return nil
}

func markReady(v any, ready map[string]bool) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			markReady(e, ready)
		}
	case map[string]any:
		name, named := v["name"].(string)
		if is, _ := v["ready"].(bool); named && is {
			ready[name] = true
		}
		for _, e := range v {
			markReady(e, ready)
		}
	}
}
