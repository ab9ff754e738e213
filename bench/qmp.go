package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// qmp is a connection to a QEMU. Commands are made one at a time; events are kept, all of them.
type qmp struct {
	conn    net.Conn
	answers chan reply
	ended   chan struct{} // closed when nothing more can be read

	mu      sync.Mutex
	heard   []event       // guarded by mu
	changed chan struct{} // guarded by mu; closed and replaced when heard grows
}

// event is something that QEMU told unasked.
type event struct {
	name   string
	at     time.Time
	status string // of MIGRATION
	device string // of a block job
	fault  string // of a block job
}

type reply struct {
	Return json.RawMessage
	Error  *struct{ Class, Desc string }
}

// openQMP connects to the socket and asks for commands to be accepted.
func openQMP(ctx context.Context, path string) (*qmp, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	q := &qmp{conn: conn, answers: make(chan reply, 1), ended: make(chan struct{}), changed: make(chan struct{})}
	go q.read()
	if err := q.call(ctx, "qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(err, q.close())
	}
	return q, nil
}

// close ends the connection and waits for its reader.
func (q *qmp) close() error {
	err := q.conn.Close()
	<-q.ended
	return err
}

func (q *qmp) read() {
	defer close(q.ended)
	for in := json.NewDecoder(q.conn); ; {
		var line struct {
			reply
			Event     string
			Timestamp struct{ Seconds, Microseconds int64 }
			Data      struct{ Status, Device, Error string }
			QMP       json.RawMessage
		}
		if in.Decode(&line) != nil {
			return
		}
		switch {
		case line.QMP != nil: // the greeting
		case line.Event != "":
			q.hear(event{
				name: line.Event, at: time.Unix(line.Timestamp.Seconds, line.Timestamp.Microseconds*1000),
				status: line.Data.Status, device: line.Data.Device, fault: line.Data.Error,
			})
		default:
			select {
			case q.answers <- line.reply:
			default: // the answer to a command that nobody waits for any more, and another came before
			}
		}
	}
}

func (q *qmp) hear(e event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.heard = append(q.heard, e)
	close(q.changed)
	q.changed = make(chan struct{})
}

var errQMPEnded = errors.New("QEMU has ended")

// call carries out a command; after an error of ctx the connection is of no more use.
func (q *qmp) call(ctx context.Context, command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case r := <-q.answers:
		if r.Error != nil {
			return fmt.Errorf("QMP %s: %s", command, r.Error.Desc)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(r.Return, result); err != nil {
			return fmt.Errorf("QMP %s: read the answer: %w", command, err)
		}
		return nil
	case <-q.ended:
		return fmt.Errorf("QMP %s: %w", command, errQMPEnded)
	case <-ctx.Done():
		return fmt.Errorf("QMP %s: %w", command, context.Cause(ctx))
	}
}

// mark is the present, for await: what was heard before it does not count.
func (q *qmp) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.heard)
}

// await returns the first event after the mark that right accepts; an error of right ends the wait.
func (q *qmp) await(ctx context.Context, mark int, what string, right func(event) (bool, error)) (event, error) {
	for {
		q.mu.Lock()
		news, changed := q.heard[mark:], q.changed
		q.mu.Unlock()
		for _, e := range news {
			if ok, err := right(e); ok || err != nil {
				return e, err
			}
		}
		mark += len(news)
		select {
		case <-changed:
		case <-q.ended:
			return event{}, fmt.Errorf("wait for %s: %w", what, errQMPEnded)
		case <-ctx.Done():
			return event{}, fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// awaitEvent waits for an event by its name.
func (q *qmp) awaitEvent(ctx context.Context, mark int, name string) (event, error) {
	return q.await(ctx, mark, name, func(e event) (bool, error) { return e.name == name, nil })
}

// awaitMigration waits until the migration has the status, and fails when it never will.
func (q *qmp) awaitMigration(ctx context.Context, mark int, status string) error {
	_, err := q.await(ctx, mark, "migration "+status, func(e event) (bool, error) {
		if e.name != "MIGRATION" {
			return false, nil
		}
		if e.status == "failed" || e.status == "cancelled" {
			return false, fmt.Errorf("QEMU's migration has %s", e.status)
		}
		return e.status == status, nil
	})
	return err
}

// awaitJob waits for an event of a block job, and fails when the job does.
func (q *qmp) awaitJob(ctx context.Context, mark int, name, job string) error {
	_, err := q.await(ctx, mark, name+" of "+job, func(e event) (bool, error) {
		if e.device != job {
			return false, nil
		}
		if e.fault != "" || e.name == "BLOCK_JOB_ERROR" {
			return false, fmt.Errorf("QEMU's job %s has failed: %s", job, e.fault)
		}
		return e.name == name, nil
	})
	return err
}
