package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/controller/failover"
	"github.com/godwit-project/godwit/migration"
)

// The keys of what the controller stores. Owners and epochs are package cluster's.
const (
	agentPrefix     = "/godwit/objects/agents/"
	servicePrefix   = "/godwit/objects/services/"
	migrationPrefix = "/godwit/objects/migrations/"
	activePrefix    = "/godwit/objects/active/"    // SERVICE → name of the migration under way: at most one
	addressPrefix   = "/godwit/objects/addresses/" // NETWORK/ADDRESS → service
	externalPrefix  = "/godwit/objects/external"   // PATH, which begins with a slash → service
	volumePrefix    = "/godwit/objects/volumes/"   // NAME → a volume that stands alone
	leftoverPrefix  = "/godwit/objects/leftovers/" // SERVICE/AGENT → what that agent has still to do for it
)

// The phases of a service, as users see them. Migrating is derived from the active key.
const (
	serviceStarting = failover.Starting
	serviceRunning  = failover.Running
	serviceFailed   = failover.Failed
	serviceDeleting = failover.Deleting
)

// agentRecord is what is known of an agent also while it is not connected.
type agentRecord struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"` // host or edge
	Site     string          `json:"site"`
	Address  string          `json:"address"`
	Underlay string          `json:"underlay,omitempty"`
	DVS      string          `json:"dvs,omitempty"` // of a host that runs a node of the DVS
	LastSeen time.Time       `json:"lastSeen"`
	Facts    json.RawMessage `json:"facts,omitempty"`
}

// serviceRecord is a service as it is stored.
type serviceRecord struct {
	Spec    json.RawMessage `json:"spec"` // protojson of ServiceSpec
	Phase   string          `json:"phase"`
	Message string          `json:"message,omitempty"`
	// Replica is where the standing replica of the volumes is, or may be; empty when there is none.
	Replica replicaRecord `json:"replica,omitzero"`
	// Promote says that the owner's volumes are there as a standing replica, and become primaries when it is started.
	Promote bool `json:"promote,omitempty"`
	// Restore is the snapshot that they go back to before.
	Restore string `json:"restore,omitempty"`
	// Restart says that the server is ended before it is started, because volumes are larger; Refill, volume → blob, which get
	// another content.
	Restart bool              `json:"restart,omitempty"`
	Refill  map[string]string `json:"refill,omitempty"`
	// Discard says that a service that is being deleted takes its volumes along that stand alone.
	Discard bool `json:"discard,omitempty"`
	// Failover is the protojson of the last one.
	Failover json.RawMessage `json:"failover,omitempty"`
	// Earlier are those of the ones before, as far as they are remembered, the newest last.
	Earlier []json.RawMessage `json:"earlierFailovers,omitempty"`
}

// replicaRecord is a standing replica.
type replicaRecord struct {
	Site string `json:"site,omitempty"`
	Host string `json:"host,omitempty"`
	// Error is why it is not as it should be.
	Error string `json:"error,omitempty"`
}

func (r serviceRecord) spec() (*pb.ServiceSpec, error) {
	spec := new(pb.ServiceSpec)
	if err := protojson.Unmarshal(r.Spec, spec); err != nil {
		return nil, fmt.Errorf("read stored service: %w", err)
	}
	return spec, nil
}

// place is one end of a migration.
type place struct {
	Site        string `json:"site"`
	Host        string `json:"host"`
	HostAddress string `json:"hostAddress"`
	Edge        string `json:"edge"`
	Underlay    string `json:"underlay"`
}

func (p place) proto() *pb.Place {
	return &pb.Place{Site: p.Site, Host: p.Host, HostAddress: p.HostAddress, Edge: p.Edge, EdgeUnderlay: p.Underlay}
}

// migrationRecord is a migration as it is stored: the state of the heart, and what the runner needs to drive it.
type migrationRecord struct {
	State         migration.State            `json:"state"`
	Spec          json.RawMessage            `json:"spec"` // protojson of the ServiceSpec that moves
	PreviousEpoch uint64                     `json:"previousEpoch"`
	Source        place                      `json:"source"`
	Destination   place                      `json:"destination"`
	Figures       map[string]json.RawMessage `json:"figures,omitempty"` // step → protojson of StepFigures
	Notes         []string                   `json:"notes,omitempty"`
	Ended         time.Time                  `json:"ended,omitzero"`
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return b, nil
}

// keeper is where records are read and written: a ledger, but in tests that write behind a controller's back.
type keeper interface {
	Get(ctx context.Context, key string) (cluster.Object, error)
	List(ctx context.Context, prefix string) ([]cluster.Object, int64, error)
	Txn(ctx context.Context, compares []cluster.Compare, ops []cluster.Op) (int64, error)
}

// load reads the record at key into v and returns its revision.
func load(ctx context.Context, s keeper, key string, v any) (int64, error) {
	o, err := s.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(o.Value, v); err != nil {
		return 0, fmt.Errorf("read record %s: %w", key, err)
	}
	return o.Revision, nil
}

// update changes the record at key by f, again if somebody else was faster. f may return an error to leave it. It fails
// with cluster.ErrConflict when one of the other conditions does not hold.
func update[T any](ctx context.Context, s keeper, key string, f func(*T) error, conditions ...cluster.Compare) error {
	for {
		var v T
		rev, err := load(ctx, s, key, &v)
		if err != nil {
			return err
		}
		if err := f(&v); err != nil {
			return err
		}
		b, err := encode(v)
		if err != nil {
			return err
		}
		compares := append([]cluster.Compare{{Key: key, Revision: rev}}, conditions...)
		_, err = s.Txn(ctx, compares, []cluster.Op{{Key: key, Value: b}})
		var conflict *cluster.ConflictError
		if !errors.As(err, &conflict) || conflict.Key != key {
			return err
		}
	}
}

// list reads all records below prefix, in the order of their keys.
func list[T any](ctx context.Context, s keeper, prefix string) ([]T, error) {
	objects, _, err := s.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	records := make([]T, 0, len(objects))
	for _, o := range objects {
		var v T
		if err := json.Unmarshal(o.Value, &v); err != nil {
			return nil, fmt.Errorf("read record %s: %w", o.Key, err)
		}
		records = append(records, v)
	}
	return records, nil
}
