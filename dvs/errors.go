package dvs

import (
	"context"
	"errors"
	"fmt"

	"github.com/godwit-project/godwit/dvs/endpoint"
)

// Errors of connecting and binding.
var (
	ErrContainer = errors.New("the node does not serve this container: check the name, and who may enter it")
	ErrNameUsed  = errors.New("another process is bound to this name: unbind it first, or bind as a standby")
	// ErrEpoch says that the group has agreed upon another owner since, or that the name was bound before by somebody else.
	ErrEpoch    = errors.New("a newer owner of this name is known: it cannot be taken back")
	ErrName     = errors.New("not a name: 1 to 255 bytes are allowed")
	ErrNotBound = errors.New("no process is bound to this name: start it, or wait longer")
)

// Errors before a request was executed: nothing has happened, it can be repeated.
var (
	ErrAgain     = errors.New("nobody is waiting for it now: repeat it later, or allow time to wait")
	ErrBusy      = errors.New("another call of this session is under way: wait, or open another session")
	ErrMigrating = errors.New("the endpoint is moving: repeat it, or allow more time")
	ErrDenied    = errors.New("not permitted: have it allowed by the policy of this program's node, or by who registered the buffer")
	ErrTooLong   = errors.New("longer than the node allows: send less at a time, or use Copy")
	ErrOverrun   = errors.New("too much is waiting: repeat it later")
)

// Errors while a call waits.
var (
	// ErrRefused comes with the text of the program that was asked.
	ErrRefused = errors.New("the program that was asked refuses the request")
	// ErrTimeout comes with context.DeadlineExceeded or context.Canceled. The request may still be executed, unless
	// ErrNotBound or ErrMigrating comes with it too.
	ErrTimeout = errors.New("no answer in time")
	// ErrOutcomeUnknown comes with ErrDestinationDied or ErrNodeGone: the request may have been executed, and nobody can tell.
	ErrOutcomeUnknown  = errors.New("outcome unknown: look at the state before you repeat the request")
	ErrDestinationDied = errors.New("the process that was asked has ended")
	ErrSourceDied      = errors.New("the process that was waited for has ended")
	ErrNodeGone        = errors.New("the node of that process cannot be reached")
	ErrNotConnected    = errors.New("the connection to the node is gone: connect again")
	ErrClosed          = errors.New("the session is closed")
)

// Errors of servers and of moving.
var (
	ErrNotWaiting = errors.New("the caller does not wait for this reply: it has gone, given up, or has it already")
	ErrMoved      = errors.New("the endpoint runs elsewhere now: end, or bind as a standby")
	ErrUnbound    = errors.New("the endpoint is unbound")
)

// Errors of Copy.
var (
	ErrRange    = errors.New("outside the registered buffer: check offset and length")
	ErrNoBuffer = errors.New("no such buffer is registered there")
)

// Error is what a call returns: the operation, its object, and the cause.
type Error struct {
	Op   string // "sendrec"
	Name string // the endpoint
	Err  error
}

// Error returns the text.
func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("dvs: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("dvs: %s %q: %v", e.Op, e.Name, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fault(op, name string, err error) error { return &Error{Op: op, Name: name, Err: err} }

// coded returns the error of a code, with the node's or the peer's text.
func coded(c endpoint.Code, text string) error {
	if c == endpoint.OK {
		return nil
	}
	err := map[endpoint.Code]error{
		endpoint.Again: ErrAgain, endpoint.NotBound: ErrNotBound, endpoint.Held: ErrMigrating, endpoint.Range: ErrRange,
		endpoint.NoBuffer: ErrNoBuffer, endpoint.Denied: ErrDenied, endpoint.NameUsed: ErrNameUsed, endpoint.BadName: ErrName,
		endpoint.Inline: errInline, endpoint.Stale: ErrEpoch, endpoint.Failed: ErrRefused, endpoint.NoContainer: ErrContainer, endpoint.Busy: ErrBusy, endpoint.TooLong: ErrTooLong, endpoint.Overrun: ErrOverrun,
		endpoint.OtherLine: errors.Join(ErrOutcomeUnknown, ErrDestinationDied),
		endpoint.Died:      errors.Join(ErrOutcomeUnknown, ErrDestinationDied),
		endpoint.NodeGone:  errors.Join(ErrOutcomeUnknown, ErrNodeGone),
	}[c]
	switch {
	case err == nil:
		return fmt.Errorf("code %d: %s", c, text)
	case text != "":
		return fmt.Errorf("%w (%s)", err, text)
	default:
		return err
	}
}

type noWait struct{}

// NoWait returns a context for calls that never wait for their peer: a message is delivered only to a process that is
// waiting for it this moment, and a receive returns only what is there. They fail with ErrAgain, ErrNotBound, ErrMigrating or
// ErrBusy. A SendRec that was delivered waits for its reply, as long as ctx allows.
func NoWait(ctx context.Context) context.Context { return context.WithValue(ctx, noWait{}, true) }

func waits(ctx context.Context) bool { return ctx.Value(noWait{}) == nil }
