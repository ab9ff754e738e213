package cluster

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

func start(t *testing.T, cfg *embed.Config) (e *embed.Etcd, stop func()) {
	t.Helper()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(e.Close)
	t.Cleanup(stop)
	<-e.Server.ReadyNotify()
	return e, stop
}

func logSyncs(t *testing.T) uint64 {
	t.Helper()
	metrics, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics {
		if m.GetName() == "etcd_disk_wal_fsync_duration_seconds" {
			return m.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("etcd does not count its syncs any more")
	return 0
}

func TestAWriteCostsOneSyncOfTheLog(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, ObjectKey("t", "a"), "1", Any)
	const writes = 50
	before := logSyncs(t)
	for range writes {
		put(t, s, ObjectKey("t", "a"), "1", Any)
	}
	// The member records its own version at some time after the start: two more.
	if n := logSyncs(t) - before; n < writes || n > writes+2 {
		t.Errorf("%d writes made %d syncs", writes, n)
	}
}

func TestAnExternalEtcdIsTheSameStore(t *testing.T) {
	dir, err := os.MkdirTemp("", "gw") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := "unix://" + filepath.Join(dir, "s")
	cfg := memberConfig(filepath.Join(dir, "etcd"), "outside", zap.NewNop())
	listen := []url.URL{{Scheme: "unix", Path: filepath.Join(dir, "s")}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = listen, listen
	start(t, cfg)

	one, err := Open(t.Context(), Options{Endpoints: []string{socket}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(t.Context(), Options{Endpoints: []string{socket}})
	if err != nil {
		t.Fatal(err)
	}
	changes := two.Watch(t.Context(), root, 0)
	leading := lead(t, one, "west")
	if c := receive(t, changes); c.Key != leading.Guard().Key {
		t.Errorf("first change is %+v", c)
	}
	first, err := one.NextEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := two.NextEpoch(t.Context())
	if err != nil || second <= first {
		t.Errorf("epochs %d, then %d, %v", first, second, err)
	}
	_, err = two.Txn(t.Context(), []Compare{{epochKey, Absent}}, []Op{{Key: "a"}})
	wantErr(t, err, ErrConflict)
	next := lead(t, two, "west") // the same controller, started again
	lost(t, leading)
	if err := errors.Join(next.Resign(), one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestAFullStoreWritesAgainAfterReopening(t *testing.T) {
	dir := t.TempDir()
	cfg := memberConfig(filepath.Join(dir, "etcd"), defaultName, zap.NewNop())
	cfg.QuotaBackendBytes = 1 << 20
	e, stop := start(t, cfg)
	full := &Store{client: v3client.New(e.Server)}
	var err error
	// etcd looks at the size of its file, which it writes once a second: a fast machine has to go on for a while.
	for begun := time.Now(); err == nil && time.Since(begun) < 30*time.Second; {
		_, err = full.Put(t.Context(), ObjectKey("t", "big"), make([]byte, 64<<10), Any)
	}
	wantErr(t, err, rpctypes.ErrNoSpace)
	stop()
	put(t, open(t, dir), ObjectKey("t", "a"), "1", Any)
}
