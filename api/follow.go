package api

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// ErrStop is returned by Follow.Seen to stop following in good order.
var ErrStop = errors.New("stop following")

// retryAfter is the pause between two attempts to reach a controller that has gone away.
const retryAfter = 500 * time.Millisecond

// Follow says how FollowMigration behaves. The functions may be nil; they are called one at a time.
type Follow struct {
	// Patience is how long a controller may stay away; zero gives up at once.
	Patience time.Duration
	// Seen is called with the migration as it is, at each change. Its error ends the following; ErrStop without one.
	Seen func(*godwitv1.Migration) error
	// Lost is called once each time that the controller has gone away, Back when it answers again.
	Lost func(error)
	Back func()
}

// FollowMigration watches a migration to its end across deaths of the controller, and returns it as it was last seen (nil
// when it never was).
func (c *Client) FollowMigration(ctx context.Context, name string, how Follow) (*godwitv1.Migration, error) {
	var last *godwitv1.Migration
	away := absence{how: how}
	seen := func(m *godwitv1.Migration) error {
		away.over()
		last = m
		if how.Seen == nil {
			return nil
		}
		return how.Seen(m)
	}
	for {
		err := c.WatchMigration(ctx, name, seen)
		ended, _ := Finished(last)
		switch {
		case errors.Is(err, ErrStop), ended && !isOwn(err):
			return last, nil
		case err == nil:
			err = &Error{
				Op: "watch migration " + name, Message: "the controller ended the connection before the migration ended",
				Code: connect.CodeUnavailable, Hint: "it may be restarting: try again in a moment",
			}
		case ctx.Err() != nil, !mayPass(err):
			return last, err
		}
		if err := away.wait(ctx, err); err != nil {
			return last, err
		}
	}
}

// absence is that of a controller which may be restarting. The zero since says that it answers.
type absence struct {
	how   Follow
	since time.Time
}

// wait notes that it is away, as err says, and returns when it may be asked again: nil then. When it has been away for longer than the
// patience lasts that is err, and when the context has ended its error.
func (a *absence) wait(ctx context.Context, err error) error {
	if a.since.IsZero() {
		a.since = time.Now()
		if a.how.Lost != nil && a.how.Patience > 0 {
			a.how.Lost(err)
		}
	}
	if time.Since(a.since) >= a.how.Patience {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(retryAfter, a.how.Patience)):
		return nil
	}
}

// over notes that it answers.
func (a *absence) over() {
	if !a.since.IsZero() && a.how.Back != nil {
		a.how.Back()
	}
	a.since = time.Time{}
}

// isOwn says whether the error came from a caller's function, not from a call.
func isOwn(err error) bool {
	call := (*Error)(nil)
	return err != nil && !errors.As(err, &call)
}

// mayPass says whether an error can be one of a controller that is being restarted. A stream that breaks shows itself as
// one of several codes, so the list is of those that will not pass.
func mayPass(err error) bool {
	call := (*Error)(nil)
	if !errors.As(err, &call) {
		return false
	}
	switch call.Code {
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeUnauthenticated,
		connect.CodeUnimplemented, connect.CodeFailedPrecondition, connect.CodeAlreadyExists:
		return false
	default:
		return true
	}
}
