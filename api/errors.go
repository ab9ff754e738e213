package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"connectrpc.com/connect"
)

// hintMark begins the line of a Connect error's message that says what the user can do.
const hintMark = "\nhint: "

// Error is what a call of Client returns: what was being done, what went wrong and, where there is something to be done
// about it, a hint. Error() holds no hint; whoever prints it for people prints Hint apart.
type Error struct {
	// Op is what was being done and to which object: "migrate shop".
	Op string
	// Message is the cause in words for users.
	Message string
	// Hint says what to do; empty when nobody knows.
	Hint string
	// Code is Connect's.
	Code connect.Code
	// Err is the cause as it came.
	Err error
}

// Error is one line: operation and cause.
func (e *Error) Error() string {
	if e.Op == "" {
		return e.Message
	}
	return e.Op + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// NewError makes the error that a server answers with: the message says what is wrong, the hint (which may be empty) what
// the caller can do. Client takes the two apart again.
func NewError(code connect.Code, hint, format string, args ...any) *connect.Error {
	err := fmt.Errorf(format, args...)
	if hint != "" {
		err = &hinted{cause: err, hint: hint}
	}
	return connect.NewError(code, err)
}

// Hint returns the hint that an error carries, or nothing.
func Hint(err error) string {
	if own := (*Error)(nil); errors.As(err, &own) {
		return own.Hint
	}
	if own := (*hinted)(nil); errors.As(err, &own) {
		return own.hint
	}
	return ""
}

// Unreachable says whether the error means that the controller did not answer, as it does while it is being restarted;
// repeating the call then makes sense.
func Unreachable(err error) bool {
	own := (*Error)(nil)
	return errors.As(err, &own) && own.Code == connect.CodeUnavailable
}

// NotFound says whether the error means that the object does not exist.
func NotFound(err error) bool {
	own := (*Error)(nil)
	return errors.As(err, &own) && own.Code == connect.CodeNotFound
}

type hinted struct {
	cause error
	hint  string
}

func (h *hinted) Error() string { return h.cause.Error() + hintMark + h.hint }
func (h *hinted) Unwrap() error { return h.cause }

// explain turns what a call returned into an *Error; a cancelled context stays what it is.
func (c *Client) explain(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s: %w", op, cause)
	}
	if own := (*Error)(nil); errors.As(err, &own) {
		return err
	}
	out := &Error{Op: op, Code: connect.CodeOf(err), Err: err}
	if c.explainTransport(out, err) {
		return out
	}
	message := err.Error()
	if remote := (*connect.Error)(nil); errors.As(err, &remote) {
		message = remote.Message()
	}
	out.Message, out.Hint = splitHints(message)
	switch out.Code {
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		if out.Hint == "" {
			out.Hint = "an operator's identity is needed: make one with 'godwit token create --role operator' and 'godwit join', and name it with --identity"
		}
	case connect.CodeUnimplemented:
		if out.Hint == "" {
			out.Hint = "the controller may be of another version: compare 'godwit version' on both machines"
		}
	}
	return out
}

// explainTransport fills in the errors that come from not reaching the controller at all, and says whether it was one.
func (c *Client) explainTransport(out *Error, err error) bool {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		alert     tls.AlertError
		timeout   net.Error
	)
	out.Code = connect.CodeUnavailable
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EACCES):
		out.Code = connect.CodePermissionDenied
		out.Message = "may not open " + c.server
		out.Hint = "run it as the socket's owner (often root), or reach the controller over https with --server and --identity"
	case c.socket != "" && errors.Is(err, fs.ErrNotExist):
		out.Message = "no controller at " + c.server
		out.Hint = "start one with 'godwit controller', or a lab with 'godwit lab up', or name another with --server"
	case errors.Is(err, syscall.ECONNREFUSED):
		out.Message = "nothing answers at " + c.server
		out.Hint = "is the controller running? Start it with 'godwit controller', or name another with --server"
	case errors.As(err, &authority), errors.As(err, &hostname):
		out.Code = connect.CodeUnauthenticated
		out.Message = fmt.Sprintf("%s is not the controller that this identity trusts: %v", c.server, err)
		out.Hint = "name the identity that belongs to this controller with --identity"
	case errors.As(err, &alert):
		out.Code = connect.CodeUnauthenticated
		out.Message = fmt.Sprintf("%s does not accept this identity: %v", c.server, alert)
		out.Hint = "join again with a new token ('godwit token create'), or name another identity with --identity"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.As(err, &timeout) && timeout.Timeout():
		out.Message = c.server + " cannot be reached"
		out.Hint = "check the address in --server, and the network between"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		out.Message = "the controller at " + c.server + " ended the connection"
		out.Hint = "it may be restarting: try again in a moment"
	default:
		out.Code = connect.CodeOf(err)
		return false
	}
	return true
}

// splitHints takes a message apart: text, and what stands in lines that begin with "hint: ".
func splitHints(text string) (message, hint string) {
	var body, hints []string
	for line := range strings.SplitSeq(text, "\n") {
		if rest, ok := strings.CutPrefix(line, "hint: "); ok {
			hints = append(hints, rest)
			continue
		}
		body = append(body, line)
	}
	return strings.TrimSpace(strings.Join(body, "\n")), strings.Join(hints, "; ")
}
