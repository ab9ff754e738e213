package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

const (
	root        = "/godwit/"
	epochKey    = root + "epoch"
	ownerPrefix = root + "owners/"
	objectRoot  = root + "objects/"
)

// Owner says which site, and there which host, may run a service, and since
// which epoch. To change it is to decide a migration or a failover: only inside
// a Txn that compares the revision that Store.Owner returned.
type Owner struct {
	Service string `json:"service"`
	Site    string `json:"site"`
	Host    string `json:"host"`
	Epoch   uint64 `json:"epoch"`
}

// ObjectKey is the key of an object of the given kind; with an empty name, the
// prefix of all of that kind.
func ObjectKey(kind, name string) string { return objectRoot + kind + "/" + name }

// OwnerKey is the key of a service's Owner; with "", the prefix of all owners.
func OwnerKey(service string) string { return ownerPrefix + service }

// Encode returns the owner as it is stored.
func (o Owner) Encode() ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode owner of %s: %w", o.Service, err)
	}
	return b, nil
}

// DecodeOwner reads what Encode wrote.
func DecodeOwner(b []byte) (Owner, error) {
	var o Owner
	if err := json.Unmarshal(b, &o); err != nil {
		return Owner{}, fmt.Errorf("decode owner: %w", err)
	}
	return o, nil
}

// Owner returns a service's owner and the revision to compare when changing
// it; ErrNotFound if nobody has owned it yet.
func (s *Store) Owner(ctx context.Context, service string) (Owner, int64, error) {
	obj, err := s.Get(ctx, OwnerKey(service))
	if err != nil {
		return Owner{}, 0, err
	}
	o, err := DecodeOwner(obj.Value)
	if err != nil {
		return Owner{}, 0, fmt.Errorf("owner of %s: %w", service, err)
	}
	return o, obj.Revision, nil
}

// NextEpoch allocates an epoch: greater than every one before, never given out
// twice, on stable storage before it is returned. A failed call may waste a
// number; it never repeats one. The first is 1. It is ErrConflict, and nothing is
// given out, when one of the conditions does not hold: that of a leadership, for
// what only a leader may begin.
func (s *Store) NextEpoch(ctx context.Context, conditions ...Compare) (uint64, error) {
	return s.advanceEpoch(ctx, func(last uint64) uint64 { return last + 1 }, conditions...)
}

// EpochGuard is the condition that epoch is the last one given out. It belongs into the transaction that stores a new
// attempt: an attempt that began after a newer epoch was given out would be refused by agents which have seen that one, in
// its abort too, and so for ever (migration's simulation found this). ErrConflict when it is not the last one any more:
// allocate anew.
func (s *Store) EpochGuard(ctx context.Context, epoch uint64) (Compare, error) {
	last, rev, err := s.lastEpoch(ctx)
	if err != nil {
		return Compare{}, fmt.Errorf("guard epoch %d: %w", epoch, err)
	}
	if last != epoch {
		return Compare{}, fmt.Errorf("guard epoch %d: %w", epoch, &ConflictError{Key: epochKey, Expected: int64(epoch), Actual: int64(last)})
	}
	return Compare{Key: epochKey, Revision: rev}, nil
}

// RaiseEpoch makes every epoch allocated from now on greater than seen. After
// the store was restored from a backup, or made anew, agents may have seen
// epochs that it does not know of and would refuse what it allocates.
func (s *Store) RaiseEpoch(ctx context.Context, seen uint64) error {
	_, err := s.advanceEpoch(ctx, func(last uint64) uint64 { return max(last, seen) })
	return err
}

func (s *Store) advanceEpoch(ctx context.Context, next func(uint64) uint64, conditions ...Compare) (uint64, error) {
	for {
		last, rev, err := s.lastEpoch(ctx)
		if err != nil {
			return 0, fmt.Errorf("allocate epoch: %w", err)
		}
		n := next(last)
		if n == last {
			return n, nil
		}
		compares := append([]Compare{{Key: epochKey, Revision: rev}}, conditions...)
		_, err = s.Txn(ctx, compares, []Op{{Key: epochKey, Value: strconv.AppendUint(nil, n, 10)}})
		if err == nil {
			return n, nil
		}
		var conflict *ConflictError
		if !errors.As(err, &conflict) || conflict.Key != epochKey {
			return 0, fmt.Errorf("allocate epoch: %w", err)
		}
	}
}

func (s *Store) lastEpoch(ctx context.Context) (last uint64, rev int64, err error) {
	obj, err := s.Get(ctx, epochKey)
	if errors.Is(err, ErrNotFound) {
		return 0, Absent, nil
	}
	if err != nil {
		return 0, 0, err
	}
	last, err = strconv.ParseUint(string(obj.Value), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("%s is damaged: %w", epochKey, err)
	}
	return last, obj.Revision, nil
}
