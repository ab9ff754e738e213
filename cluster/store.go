package cluster

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Revisions with a meaning of their own, for expected revisions.
const (
	// Any: whatever is there, also nothing.
	Any int64 = -1
	// Absent: the key must not exist.
	Absent int64 = 0
)

// maxTxnOps bounds the operations, and likewise the compares, of one Txn.
const maxTxnOps = 1024

// Object is one value of the store.
type Object struct {
	Key   string
	Value []byte
	// Revision is the store's revision at which the value was last written.
	Revision int64
}

// Compare is one condition of a Txn: the key is at that modification revision.
type Compare struct {
	Key      string
	Revision int64 // Absent: must not exist; Any: no condition
}

// Op is one operation of a Txn: a write, or with Delete a deletion.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Get returns the object under key, or ErrNotFound. It sees every write that
// was acknowledged before the call, whoever made it.
func (s *Store) Get(ctx context.Context, key string) (Object, error) {
	resp, err := s.client.Get(ctx, key)
	if err != nil {
		return Object{}, fmt.Errorf("get %s: %w", key, because(ctx, err))
	}
	if len(resp.Kvs) == 0 {
		return Object{}, fmt.Errorf("get %s: %w", key, ErrNotFound)
	}
	kv := resp.Kvs[0]
	return Object{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}, nil
}

// List returns the objects whose keys start with prefix, in the order of their
// keys, and the store's revision at which that is the truth: a Watch from it
// misses nothing. End a prefix with '/', or it matches longer names too.
func (s *Store) List(ctx context.Context, prefix string) ([]Object, int64, error) {
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", prefix, because(ctx, err))
	}
	objects := make([]Object, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		objects = append(objects, Object{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision})
	}
	return objects, resp.Header.Revision, nil
}

// Put writes value if the key is at the expected revision (Any and Absent have
// their meanings) and returns its new revision. ErrConflict: nothing was
// written. Any other error: it may have been written; read it back.
func (s *Store) Put(ctx context.Context, key string, value []byte, expected int64) (int64, error) {
	rev, err := s.commit(ctx, []Compare{{Key: key, Revision: expected}}, []Op{{Key: key, Value: value}})
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", key, err)
	}
	return rev, nil
}

// Delete removes the object if it is at the expected revision. With Any, an
// object that is not there is ErrNotFound.
func (s *Store) Delete(ctx context.Context, key string, expected int64) error {
	if expected == Absent {
		return fmt.Errorf("delete %s: %w: an absent object cannot be deleted", key, ErrInvalid)
	}
	if expected != Any {
		if _, err := s.commit(ctx, []Compare{{Key: key, Revision: expected}}, []Op{{Key: key, Delete: true}}); err != nil {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		return nil
	}
	resp, err := s.client.Delete(ctx, key)
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, because(ctx, err))
	}
	if resp.Deleted == 0 {
		return fmt.Errorf("delete %s: %w", key, ErrNotFound)
	}
	return nil
}

// Txn carries out all ops if all compares hold, or nothing, and returns the one
// revision that everything written now has. A *ConflictError names the first
// compare that did not hold. Any error that is not ErrConflict: it may have
// happened; read back. Deleting what is not there is no error.
func (s *Store) Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error) {
	rev, err := s.commit(ctx, compares, ops)
	if err != nil {
		return 0, fmt.Errorf("transaction: %w", err)
	}
	return rev, nil
}

func (s *Store) commit(ctx context.Context, compares []Compare, ops []Op) (int64, error) {
	then, err := operations(ops)
	if err != nil {
		return 0, err
	}
	var (
		wanted []Compare
		ifs    []clientv3.Cmp
		reads  []clientv3.Op
	)
	for _, c := range compares {
		if c.Revision < Any {
			return 0, fmt.Errorf("%w: revision %d of %s", ErrInvalid, c.Revision, c.Key)
		}
		if c.Revision == Any {
			continue
		}
		wanted = append(wanted, c)
		ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision))
		reads = append(reads, clientv3.OpGet(c.Key, clientv3.WithKeysOnly()))
	}
	resp, err := s.client.Txn(ctx).If(ifs...).Then(then...).Else(reads...).Commit()
	if errors.Is(err, rpctypes.ErrNoSpace) {
		return 0, fmt.Errorf("%w: the store has reached its quota; an embedded one gives space back when the controller restarts, "+
			"an external etcd needs compaction, defragmentation and its alarm disarmed", err)
	}
	if err != nil {
		return 0, because(ctx, err)
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	for i, c := range wanted {
		actual := Absent
		if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			actual = kvs[0].ModRevision
		}
		if actual != c.Revision {
			return 0, &ConflictError{Key: c.Key, Expected: c.Revision, Actual: actual}
		}
	}
	return 0, ErrConflict
}

// because adds the caller's own reason to an error of etcd, which calls the end
// of a context by names of its own.
func because(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

func operations(ops []Op) ([]clientv3.Op, error) {
	then := make([]clientv3.Op, 0, len(ops))
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if op.Key == "" || seen[op.Key] {
			return nil, fmt.Errorf("%w: key %q is empty or written twice", ErrInvalid, op.Key)
		}
		seen[op.Key] = true
		if op.Delete {
			then = append(then, clientv3.OpDelete(op.Key))
		} else {
			then = append(then, clientv3.OpPut(op.Key, string(op.Value)))
		}
	}
	return then, nil
}
