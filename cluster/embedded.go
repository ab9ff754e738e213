package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	defaultName = "godwit"
	// peerURL names the single member in etcd's membership. Nothing listens on it.
	peerURL = "unix://godwit-embedded"

	// A single member has nobody to wait for: short ticks only shorten the start.
	tick     = 20 * time.Millisecond
	election = 5 * tick // etcd's smallest ratio

	// batchInterval is how often the log's content goes into the database file,
	// with two syncs during which writes wait. Nothing is lost by waiting longer:
	// the log is what makes a write durable, and is replayed at the next start.
	batchInterval = time.Second

	quotaBytes = 2 << 30 // etcd turns read-only above it
	// keepRevisions bounds history, and with it the file's size; watchers that
	// are further behind list again.
	keepRevisions = "10000"
	// defragAboveMiB: free space in the file that makes the next Open rewrite it.
	defragAboveMiB = 64
)

// member is the embedded etcd: one member, no listener, used in process.
type member struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	lock   *os.File
}

func startMember(ctx context.Context, o Options, log *zap.Logger) (_ *member, err error) {
	if o.Dir == "" {
		return nil, fmt.Errorf("open store: %w: neither a directory nor endpoints given", ErrInvalid)
	}
	name := o.Name
	if name == "" {
		name = defaultName
	}
	if strings.ContainsAny(name, ",=") {
		return nil, fmt.Errorf("open store: %w: name %q contains ',' or '='", ErrInvalid, name)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	m := &member{}
	if m.lock, err = lockDir(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop())
		}
	}()
	if m.etcd, err = embed.StartEtcd(memberConfig(filepath.Join(o.Dir, "etcd"), name, log)); err != nil {
		return nil, fmt.Errorf("open store in %s: %w", o.Dir, err)
	}
	select {
	case <-m.etcd.Server.ReadyNotify():
	case err := <-m.etcd.Err():
		return nil, fmt.Errorf("open store in %s: %w", o.Dir, err)
	case <-ctx.Done():
		return nil, fmt.Errorf("open store in %s: %w", o.Dir, ctx.Err())
	}
	m.client = v3client.New(m.etcd.Server)
	if err := m.readmit(ctx); err != nil {
		return nil, fmt.Errorf("open store in %s: %w", o.Dir, err)
	}
	return m, nil
}

// readmit lets a member write again that had reached its quota: opening it has
// given the compacted space back. If it has not, the next write says so.
func (m *member) readmit(ctx context.Context) error {
	alarms, err := m.client.AlarmList(ctx)
	if err != nil {
		return err
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := m.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return err
		}
	}
	return nil
}

func memberConfig(dir, name string, log *zap.Logger) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.Name = name
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)

	peer := url.URL{Scheme: "unix", Host: strings.TrimPrefix(peerURL, "unix://")}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{peer}, nil
	cfg.InitialCluster = name + "=" + peerURL

	cfg.TickMs = uint(tick.Milliseconds())
	cfg.ElectionMs = uint(election.Milliseconds())
	cfg.BackendBatchInterval = batchInterval
	cfg.QuotaBackendBytes = quotaBytes
	cfg.AutoCompactionMode = embed.CompactorModeRevision
	cfg.AutoCompactionRetention = keepRevisions
	cfg.BootstrapDefragThresholdMegabytes = defragAboveMiB
	cfg.MaxTxnOps = maxTxnOps
	return cfg
}

// stop is idempotent and takes a member in any state of its start.
func (m *member) stop() error {
	if m.client != nil {
		_ = m.client.Close() // says only that its context was cancelled
	}
	if m.etcd != nil {
		m.etcd.Close()
		m.etcd = nil
	}
	if m.lock == nil {
		return nil
	}
	lock := m.lock
	m.lock = nil
	return lock.Close()
}

// lockDir takes the directory for this process. etcd would wait silently for
// another holder of its files; a user has to be told. The kernel drops the lock
// when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop the other controller, or give this one a directory of its own", ErrInUse)
		}
		return nil, errors.Join(fmt.Errorf("open store in %s: %w", dir, err), f.Close())
	}
	return f, nil
}
