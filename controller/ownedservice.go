package controller

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// ownedService is a service with its owner: what is decided of its replica is right as long as it has that one. A failover makes the
// replica the owner, and the owner the replica.
type ownedService struct {
	spec  *pb.ServiceSpec
	owner cluster.Owner
	rev   int64 // of the owner
}

// withOwner reads a service, its owner, and where its replica is, as they were at one moment.
func (s *services) withOwner(ctx context.Context, name string) (o ownedService, have replicaRecord, err error) {
	for {
		if o.owner, o.rev, err = s.store.Owner(ctx, name); err != nil {
			return o, have, err
		}
		var r serviceRecord
		if _, err = load(ctx, s.store, servicePrefix+name, &r); err != nil {
			return o, have, err
		}
		if o.spec, err = r.spec(); err != nil {
			return o, have, err
		}
		if err = s.stillOwned(ctx, o); !errors.Is(err, cluster.ErrConflict) {
			return o, r.Replica, err
		}
	}
}

// stillOwned is ErrConflict when the service has got another owner.
func (s *services) stillOwned(ctx context.Context, o ownedService) error {
	_, now, err := s.store.Owner(ctx, o.owner.Service)
	if err == nil && now != o.rev {
		err = fmt.Errorf("service %s has another owner: %w", o.owner.Service, cluster.ErrConflict)
	}
	return err
}

// unmoved are the conditions that it has, and is not being moved.
func (o ownedService) unmoved() []cluster.Compare {
	return []cluster.Compare{{Key: activePrefix + o.owner.Service}, {Key: cluster.OwnerKey(o.owner.Service), Revision: o.rev}}
}
