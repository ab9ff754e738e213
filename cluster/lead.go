package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	leaderPrefix = root + "leaders/"
	// leaseSeconds after the last sign of life of a leader another one takes over.
	leaseSeconds = 5
	// resignTimeout bounds the farewell of a leader whose store may be gone.
	resignTimeout = 2 * time.Second
)

// Leadership is held from Lead until Lost closes. It is a lease, so a leader
// that was paused may believe in it for too long: what must not happen twice
// has Guard among its compares.
type Leadership struct {
	session *concurrency.Session
	guard   Compare
	lost    chan struct{}
	once    sync.Once
	err     error
}

// Lead waits until this candidate leads under name, or ctx ends. id names the
// candidate: a controller, the same after a restart, and never two processes
// at once. A leadership left behind by an earlier process of the same id is
// taken over at once, instead of waiting for its lease to run out: a restarted
// controller must not lengthen a blackout by that.
func (s *Store) Lead(ctx context.Context, name, id string) (*Leadership, error) {
	l, err := s.campaign(ctx, leaderPrefix+name, id)
	if err != nil {
		return nil, fmt.Errorf("take the lead of %s as %s: %w", name, id, because(ctx, err))
	}
	return l, nil
}

func (s *Store) campaign(ctx context.Context, prefix, id string) (*Leadership, error) {
	if err := s.evict(ctx, prefix+"/", id); err != nil {
		return nil, err
	}
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(leaseSeconds), concurrency.WithContext(s.ctx))
	if err != nil {
		return nil, err
	}
	l := &Leadership{session: session, lost: make(chan struct{})}
	election := concurrency.NewElection(session, prefix)
	if err := election.Campaign(ctx, id); err != nil {
		return nil, errors.Join(err, l.Resign())
	}
	obj, err := s.Get(ctx, election.Key())
	if err != nil {
		return nil, errors.Join(err, l.Resign())
	}
	l.guard = Compare{Key: obj.Key, Revision: obj.Revision}
	if !s.start(func() { l.wait(s) }) {
		return nil, errors.Join(errors.New("store is closed"), l.Resign())
	}
	return l, nil
}

// evict ends the leases of earlier processes of this candidate.
func (s *Store) evict(ctx context.Context, prefix, id string) error {
	resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		if string(kv.Value) != id {
			continue
		}
		// The lease, not just its key: that ends the other session for certain.
		if _, err := s.client.Revoke(ctx, clientv3.LeaseID(kv.Lease)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	return nil
}

// Guard is the compare that holds as long as this leadership does.
func (l *Leadership) Guard() Compare { return l.guard }

// Lost closes when the leadership ended: resigned, taken over, expired, or the store closed.
func (l *Leadership) Lost() <-chan struct{} { return l.lost }

// Resign gives the lead up at once, so that the next candidate need not wait
// for the lease to run out. Resigning twice, or what is lost already, is no error.
func (l *Leadership) Resign() error {
	l.once.Do(func() {
		l.session.Orphan()
		ctx, cancel := context.WithTimeout(context.Background(), resignTimeout)
		defer cancel()
		if _, err := l.session.Client().Revoke(ctx, l.session.Lease()); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			l.err = fmt.Errorf("resign: %w", err)
		}
	})
	return l.err
}

// wait closes lost when the lease ends or the key that stands for it goes.
func (l *Leadership) wait(s *Store) {
	defer close(l.lost)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	changes := s.client.Watch(clientv3.WithRequireLeader(ctx), l.guard.Key, clientv3.WithRev(l.guard.Revision+1))
	for {
		select {
		case <-l.session.Done():
			return
		case resp, ok := <-changes:
			if !ok || resp.Err() != nil {
				changes = nil // the lease alone decides from here
				continue
			}
			for _, e := range resp.Events {
				if e.Type == clientv3.EventTypeDelete {
					l.session.Orphan()
					return
				}
			}
		}
	}
}
