package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// dialTimeout bounds how long Open waits for the first answer of an external etcd.
const dialTimeout = 5 * time.Second

// Options say where the store is.
type Options struct {
	// Dir holds the embedded store; created if missing, 0700. Unused with Endpoints.
	Dir string
	// Name of the embedded member, for logs; "godwit" if empty. No comma, no '='.
	Name string
	// Endpoints of an external etcd. When there are any, nothing is embedded.
	Endpoints []string
	// TLS for the external etcd; nil is plain text, for unix sockets and loopback.
	TLS *tls.Config
	// Logger receives etcd's warnings and errors; nil discards them.
	Logger *slog.Logger
}

// Store is the cluster's shared state. It is safe for concurrent use.
type Store struct {
	client *clientv3.Client
	member *member // nil with an external etcd

	ctx    context.Context // ends at Close; the life of watches and leaderships
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed, and wg.Add against wg.Wait
	closed bool
	wg     sync.WaitGroup
}

// Open opens the embedded store under o.Dir, creating it on first use, or
// connects to o.Endpoints. It returns once the store answers.
func Open(ctx context.Context, o Options) (*Store, error) {
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	log := zap.New(&slogCore{logger: logger.With("component", "etcd")})
	s := &Store{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if len(o.Endpoints) > 0 {
		s.client, err = dial(ctx, o, log)
	} else {
		s.member, err = startMember(ctx, o, log)
		if err == nil {
			s.client = s.member.client
		}
	}
	if err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Close ends all watches and leaderships, resigning none, and stops the
// embedded store. It waits for every goroutine of the store.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	stop := s.client.Close
	if s.member != nil {
		stop = s.member.stop
	}
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// start runs f in a goroutine that Close waits for; false if the store is closed.
func (s *Store) start(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

func dial(ctx context.Context, o Options, log *zap.Logger) (*clientv3.Client, error) {
	at := strings.Join(o.Endpoints, ", ")
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            o.Endpoints,
		TLS:                  o.TLS,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,
		Logger:               log,
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", at, err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := c.Get(ctx, epochKey); err != nil {
		return nil, errors.Join(
			fmt.Errorf("etcd at %s does not answer: %w; check the endpoints, and its TLS settings if it uses TLS", at, err),
			c.Close())
	}
	return c, nil
}
