package controller

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"github.com/godwit-project/godwit/cluster"
)

// errDeposed is what becomes of a write of a controller that leads no more. It is no conflict, which would be somebody else's write of the
// same record: nothing that this controller could read anew or plan anew makes it the leader.
var errDeposed = errors.New("this controller leads no more, and decides nothing\nhint: try again: another one leads")

// ledger is the store as the controller that leads writes to it. Whatever is written or given out has the guard of its leadership among
// its conditions, so that nobody has to remember that; what is read has not.
type ledger struct {
	*cluster.Store
	guard cluster.Compare
}

// Txn implements cluster.Store's.
func (l *ledger) Txn(ctx context.Context, compares []cluster.Compare, ops []cluster.Op) (int64, error) {
	rev, err := l.Store.Txn(ctx, append([]cluster.Compare{l.guard}, compares...), ops)
	return rev, l.deposed(err)
}

// Put implements cluster.Store's.
func (l *ledger) Put(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	rev, err := l.Txn(ctx, []cluster.Compare{{Key: key, Revision: expected}}, []cluster.Op{{Key: key, Value: value}})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return rev, nil
}

// Delete implements cluster.Store's, but that what is not there is gone.
func (l *ledger) Delete(ctx context.Context, key string, expected int64) error {
	if _, err := l.Txn(ctx, []cluster.Compare{{Key: key, Revision: expected}}, []cluster.Op{{Key: key, Delete: true}}); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// NextEpoch implements cluster.Store's. What a controller has decided while it led goes out under epochs of that time, and so is older
// than whatever its successor asks for: agents refuse it.
func (l *ledger) NextEpoch(ctx context.Context) (uint64, error) {
	epoch, err := l.Store.NextEpoch(ctx, l.guard)
	return epoch, l.deposed(err)
}

// deposed tells the loss of the lead from a conflict.
func (l *ledger) deposed(err error) error {
	var conflict *cluster.ConflictError
	if errors.As(err, &conflict) && conflict.Key == l.guard.Key {
		return connect.NewError(connect.CodeUnavailable, errDeposed)
	}
	return err
}
