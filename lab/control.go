package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"time"
)

// Operations of the control socket. A caller sends one request as a line of JSON and reads lines of JSON; the last has
// Done set.
const (
	opWatch    = "watch" // progress until the lab is ready or has failed
	opStatus   = "status"
	opSetLink  = "set-link"
	opKill     = "kill"
	opPowerOff = "power-off"
	opPowerOn  = "power-on"
	opStop     = "stop"
)

type request struct {
	Op      string         `json:"op"`
	Site    string         `json:"site,omitempty"`
	Change  LinkChange     `json:"change,omitzero"`
	Process string         `json:"process,omitempty"`
	Signal  syscall.Signal `json:"signal,omitempty"`
	Node    string         `json:"node,omitempty"`
}

type response struct {
	Progress string  `json:"progress,omitempty"`
	Status   *Status `json:"status,omitempty"`
	Error    string  `json:"error,omitempty"`
	Done     bool    `json:"done,omitempty"`
}

func controlSocket(dir string) string { return filepath.Join(dir, "lab.sock") }

// call makes a request and hands every answer to each (which may be nil); it returns the supervisor's error.
func call(ctx context.Context, dir string, req request, each func(response)) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", controlSocket(dir))
	if err != nil {
		return fmt.Errorf("talk to the lab's supervisor: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return fmt.Errorf("talk to the lab's supervisor: %w", err)
	}
	for dec := json.NewDecoder(conn); ; {
		var resp response
		if err := dec.Decode(&resp); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("talk to the lab's supervisor: it broke off: %w", err)
		}
		if resp.Error != "" {
			return errors.New(resp.Error)
		}
		if each != nil {
			each(resp)
		}
		if resp.Done {
			return nil
		}
	}
}

// Status tells what the lab looks like now.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	var st Status
	err := call(ctx, l.dir, request{Op: opStatus}, func(r response) {
		if r.Status != nil {
			st = *r.Status
		}
	})
	if err != nil {
		return Status{}, fmt.Errorf("status of lab %s: %w", l.name, err)
	}
	return st, nil
}

// SetLink changes the uplink of a site, at once and for both directions.
func (l *Lab) SetLink(ctx context.Context, site string, change LinkChange) error {
	return call(ctx, l.dir, request{Op: opSetLink, Site: site, Change: change}, nil)
}

// Kill sends a signal to a process of the lab: "controller", "bird", or "agent NODE". The supervisor starts it again
// when it ends.
func (l *Lab) Kill(ctx context.Context, process string, signal syscall.Signal) error {
	return call(ctx, l.dir, request{Op: opKill, Process: process, Signal: signal}, nil)
}

// PowerOff ends everything that runs on a node at once, virtual servers included, and starts nothing there until
// PowerOn. An edge without power forwards nothing to or from the provider. What stays is the disk, and, other than in a
// real machine, what the agent had set up in the kernel (routes, tunnels, taps).
func (l *Lab) PowerOff(ctx context.Context, node string) error {
	return call(ctx, l.dir, request{Op: opPowerOff, Node: node}, nil)
}

// PowerOn lets a node run again.
func (l *Lab) PowerOn(ctx context.Context, node string) error {
	return call(ctx, l.dir, request{Op: opPowerOn, Node: node}, nil)
}

// serve answers callers until the listener is closed, and waits for the answers under way.
func (s *supervisor) serve(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		s.callers.Go(func() {
			defer conn.Close()
			if conn.SetReadDeadline(time.Now().Add(5*time.Second)) != nil {
				return
			}
			s.answer(ctx, conn)
		})
	}
}

func (s *supervisor) answer(ctx context.Context, conn io.ReadWriter) {
	enc := json.NewEncoder(conn)
	var req request
	if err := json.NewDecoder(conn).Decode(&req); err != nil {
		_ = enc.Encode(response{Error: fmt.Sprintf("read request: %v", err)})
		return
	}
	if err := s.do(ctx, req, enc); err != nil {
		_ = enc.Encode(response{Error: err.Error()})
		return
	}
	_ = enc.Encode(response{Done: true})
}

func (s *supervisor) do(ctx context.Context, req request, enc *json.Encoder) error {
	switch req.Op {
	case opWatch:
		return s.watch(ctx, enc)
	case opStatus:
		st := s.status(ctx)
		return enc.Encode(response{Status: &st})
	case opSetLink:
		return s.network().setLink(req.Site, req.Change)
	case opKill:
		p, err := s.find(req.Process)
		if err != nil {
			return err
		}
		return p.signal(req.Signal)
	case opPowerOff:
		return s.power(req.Node, false)
	case opPowerOn:
		return s.power(req.Node, true)
	case opStop:
		s.stop()
		return nil
	default:
		return fmt.Errorf("no such operation: %q", req.Op)
	}
}
