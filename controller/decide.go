package controller

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// agreeTries is how often something is planned anew because of what came between.
const agreeTries = 5

// agree plans and decides, in try. What is noted about a service in the background (that its replica is made, say) may come between
// the two, and is nobody's conflict: then both are made anew.
func agree(try func() error) error {
	for tries := 1; ; tries++ {
		err := try()
		if err == nil || connect.CodeOf(err) != connect.CodeAborted || tries == agreeTries {
			return err
		}
	}
}

// stored reads a service of which something is to be decided, and the revision of its record.
func (m *migrations) stored(ctx context.Context, name string) (r serviceRecord, spec *pb.ServiceSpec, rev int64, err error) {
	rev, err = load(ctx, m.store, servicePrefix+name, &r)
	if errors.Is(err, cluster.ErrNotFound) {
		return r, nil, 0, notFound("service", name)
	}
	if err == nil {
		spec, err = r.spec()
	}
	return r, spec, rev, err
}

// owned returns the owner of a service that is not being migrated, and the conditions under which that, and the record of that
// revision, stay right.
func (m *migrations) owned(ctx context.Context, name string, rev int64) (cluster.Owner, []cluster.Compare, error) {
	if _, err := m.store.Get(ctx, activePrefix+name); err == nil {
		return cluster.Owner{}, nil, m.busy(ctx, name)
	}
	owner, ownerRev, err := m.store.Owner(ctx, name)
	return owner, []cluster.Compare{{Key: servicePrefix + name, Revision: rev}, {Key: cluster.OwnerKey(name), Revision: ownerRev}}, err
}

// decide stores what is decided of a service, if it is still not being migrated and the conditions hold. Who can plan anew calls it
// within agree.
func (m *migrations) decide(ctx context.Context, name string, unchanged []cluster.Compare, ops []cluster.Op) error {
	_, err := m.store.Txn(ctx, append([]cluster.Compare{{Key: activePrefix + name}}, unchanged...), ops)
	if errors.Is(err, cluster.ErrConflict) {
		return changedMeanwhile("service", name)
	}
	return err
}

func changedMeanwhile(kind, name string) error {
	return connect.NewError(connect.CodeAborted, fmt.Errorf("%s %s was changed by somebody else at the same moment\nhint: try again", kind, name))
}
