package cluster

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watchRetry is how long a watch waits before it asks again after an error.
const watchRetry = 200 * time.Millisecond

// Change is one change of an object. Of a deleted object the value is nil.
type Change struct {
	Object
	Deleted bool
}

// Watch delivers what changes under prefix after the revision from (as List
// returned it), in the order of revisions; with 0, first everything that is
// there. The channel closes when ctx ends or the store closes, and only then.
//
// A watch that falls behind what the store keeps of its history lists again:
// then only the last state of an object is delivered, and deletions are
// worked out from what was known. So consumers should act on states and not
// count changes. A slow receiver delays nobody else.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan Change {
	w := &watch{store: s, prefix: prefix, rev: from, known: map[string]bool{}, out: make(chan Change)}
	if !s.start(func() { w.run(ctx) }) {
		close(w.out)
	}
	return w.out
}

type watch struct {
	store    *Store
	prefix   string
	rev      int64           // everything up to here was delivered
	known    map[string]bool // keys that the consumer knows to exist
	caughtUp bool            // changes after rev are all that is missing
	out      chan Change
}

func (w *watch) run(ctx context.Context) {
	defer close(w.out)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(w.store.ctx, cancel)
	defer stop()
	for ctx.Err() == nil {
		if err := w.step(ctx); err != nil {
			pause(ctx, watchRetry)
		}
	}
}

// step does what is next: learn what the consumer knows, list, or follow.
func (w *watch) step(ctx context.Context) error {
	if w.caughtUp {
		return w.follow(ctx)
	}
	if w.rev > 0 && len(w.known) == 0 {
		err := w.recall(ctx)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			w.caughtUp = err == nil
			return err
		}
	}
	return w.relist(ctx)
}

// recall learns which keys the consumer has from its own List, so that their
// deletion can be told even if the history is compacted later.
func (w *watch) recall(ctx context.Context) error {
	resp, err := w.store.client.Get(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithRev(w.rev))
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		w.known[string(kv.Key)] = true
	}
	return nil
}

// relist delivers what is there and was not delivered, and what is gone.
func (w *watch) relist(ctx context.Context) error {
	objects, rev, err := w.store.List(ctx, w.prefix)
	if err != nil {
		return err
	}
	gone := w.known
	w.known = make(map[string]bool, len(objects))
	for _, o := range objects {
		delete(gone, o.Key)
		w.known[o.Key] = true
		if o.Revision > w.rev && !w.send(ctx, Change{Object: o}) {
			return ctx.Err()
		}
	}
	for key := range gone {
		if !w.send(ctx, Change{Object: Object{Key: key, Revision: rev}, Deleted: true}) {
			return ctx.Err()
		}
	}
	w.rev, w.caughtUp = rev, true
	return nil
}

// errBroken: the watch ended without a reason; it is to be begun again.
var errBroken = errors.New("watch broken")

// follow delivers changes until the watch breaks; nil if the history that it
// needs is gone and the next step is to list.
func (w *watch) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := w.store.client.Watch(clientv3.WithRequireLeader(ctx), w.prefix,
		clientv3.WithPrefix(), clientv3.WithRev(w.rev+1))
	for resp := range changes {
		if resp.CompactRevision != 0 {
			w.caughtUp = false
			return nil
		}
		if err := resp.Err(); err != nil {
			return err
		}
		for _, e := range resp.Events {
			c := Change{Object: Object{Key: string(e.Kv.Key), Value: e.Kv.Value, Revision: e.Kv.ModRevision}}
			if e.Type == clientv3.EventTypeDelete {
				c.Deleted, c.Value = true, nil
				delete(w.known, c.Key)
			} else {
				w.known[c.Key] = true
			}
			if !w.send(ctx, c) {
				return ctx.Err()
			}
		}
		// The header's revision may be ahead of the events of a watch that is
		// catching up, except in a progress notice.
		if n := len(resp.Events); n > 0 {
			w.rev = resp.Events[n-1].Kv.ModRevision
		} else if resp.IsProgressNotify() {
			w.rev = max(w.rev, resp.Header.Revision)
		}
	}
	return errBroken
}

func (w *watch) send(ctx context.Context, c Change) bool {
	select {
	case w.out <- c:
		return true
	case <-ctx.Done():
		return false
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
