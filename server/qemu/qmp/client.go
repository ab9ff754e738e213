// Package qmp speaks QEMU's control protocol over a unix socket: commands with deadlines, and events in order with
// QEMU's own clock stamps.
//
// QEMU serves one client at a time on a socket and may keep an answer back for seconds while a migration stream stalls: every
// call takes a context, and one that is given up leaves the connection in order. Close it when done; it waits for its
// goroutine. What the commands mean does not belong here.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrClosed says that the connection is gone: closed by us, or QEMU ended.
var ErrClosed = errors.New("QMP connection is closed")

// maxMessage bounds one message of QEMU; query-qmp-schema, the largest, is below 1 MiB.
const maxMessage = 64 << 20

// Client is one connection. Its methods may be called from many goroutines.
type Client struct {
	conn    *net.UnixConn
	onEvent func(Event)
	writing sync.Mutex // one command at a time on the wire
	done    chan struct{}

	mu      sync.Mutex
	next    uint64                  // guarded by mu
	waiting map[uint64]chan message // guarded by mu
	err     error                   // guarded by mu; set before done is closed
}

// Dial connects to the socket at path and negotiates. onEvent is called for every event, in order, from the goroutine that
// reads answers: it must return soon and must not call Do. A path longer than a unix address is fine.
func Dial(ctx context.Context, path string, onEvent func(Event)) (*Client, error) {
	conn, err := dialUnix(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("connect to QMP: %w", err)
	}
	return NewClient(ctx, conn, onEvent)
}

// dialUnix goes through a descriptor of the folder where path does not fit an address (108 bytes).
func dialUnix(ctx context.Context, path string) (*net.UnixConn, error) {
	const maxAddress = 107
	if len(path) > maxAddress {
		dir, base := splitPath(path)
		d, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), base)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func splitPath(path string) (dir, base string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i+1], path[i+1:]
		}
	}
	return ".", path
}

// NewClient negotiates on an open connection, which it owns from then on, also when it fails.
func NewClient(ctx context.Context, conn *net.UnixConn, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, done: make(chan struct{}), waiting: make(map[uint64]chan message)}
	greeted := make(chan struct{})
	go c.read(greeted)
	if err := c.negotiate(ctx, greeted); err != nil {
		c.Close()
		return nil, fmt.Errorf("negotiate QMP: %w", err)
	}
	return c, nil
}

func (c *Client) negotiate(ctx context.Context, greeted <-chan struct{}) error {
	select {
	case <-greeted:
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("no greeting, maybe another client holds the socket: %w", ctx.Err())
	}
	return c.Do(ctx, "qmp_capabilities", nil, nil)
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why the connection ended, nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and waits until no onEvent runs any more. Calls under way fail with ErrClosed.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Do carries out one command and decodes its answer into result, unless that is nil. A refusal is an *Error.
// When ctx ends first the command may still take effect.
func (c *Client) Do(ctx context.Context, command string, arguments, result any) error {
	return c.do(ctx, command, arguments, result, nil)
}

// GetFD gives QEMU a copy of file under name, for later commands that take "fd:NAME".
func (c *Client) GetFD(ctx context.Context, name string, file *os.File) error {
	return c.do(ctx, "getfd", map[string]string{"fdname": name}, nil, file)
}

func (c *Client) do(ctx context.Context, command string, arguments, result any, file *os.File) error {
	id, answer, err := c.register()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	if err := c.write(ctx, id, command, arguments, file); err != nil {
		return fmt.Errorf("send %s: %w", command, err)
	}
	select {
	case m := <-answer:
		return decode(m, command, result)
	case <-ctx.Done():
		return fmt.Errorf("no answer to %s: %w", command, ctx.Err())
	case <-c.done:
		select {
		case m := <-answer: // it came just before the end
			return decode(m, command, result)
		default:
			return fmt.Errorf("%s: %w", command, c.Err())
		}
	}
}

func decode(m message, command string, result any) error {
	if m.refusal != nil {
		m.refusal.Command = command
		return m.refusal
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.result, result); err != nil {
		return fmt.Errorf("understand the answer to %s: %w", command, err)
	}
	return nil
}

func (c *Client) register() (uint64, <-chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.next++
	answer := make(chan message, 1)
	c.waiting[c.next] = answer
	return c.next, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// write sends a whole command or breaks the connection: half a command would spoil all that follow.
func (c *Client) write(ctx context.Context, id uint64, command string, arguments any, file *os.File) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	line = append(line, '\n')
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline() // the zero time is none
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	defer c.conn.SetWriteDeadline(time.Time{})
	n := 0
	if file != nil {
		n, _, err = c.conn.WriteMsgUnix(line, syscall.UnixRights(int(file.Fd())), nil)
	}
	if err == nil && n < len(line) {
		_, err = c.conn.Write(line[n:])
	}
	if err != nil {
		c.conn.Close()
	}
	return err
}

// read is the one reader; it ends with the connection.
func (c *Client) read(greeted chan<- struct{}) {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 16<<10), maxMessage)
	var err error
	for err == nil && lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var m message
		if m, err = parse(lines.Bytes()); err != nil {
			break
		}
		switch {
		case m.greeting:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.event != nil:
			if c.onEvent != nil {
				c.onEvent(*m.event)
			}
		default:
			c.deliver(m)
		}
	}
	if err == nil {
		err = lines.Err()
	}
	c.conn.Close()
	c.end(err)
}

func (c *Client) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[m.id]; ok {
		delete(c.waiting, m.id)
		answer <- m
	}
}

func (c *Client) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = ErrClosed
	if cause != nil && !errors.Is(cause, net.ErrClosed) {
		c.err = fmt.Errorf("%w: %w", ErrClosed, cause)
	}
	close(c.done)
}
