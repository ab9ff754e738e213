package controller

import (
	"context"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// externalKeys are the keys under which a service has its external disks for itself.
func externalKeys(spec *pb.ServiceSpec) []string {
	var keys []string
	for _, v := range spec.GetVolumes() {
		if v.GetExternal() != "" {
			keys = append(keys, externalPrefix+v.GetExternal())
		}
	}
	return keys
}

// shares says whether all that a service keeps is on external disks: then it needs no replica to be started elsewhere.
func shares(spec *pb.ServiceSpec) bool {
	return len(externalKeys(spec)) > 0 && len(copied(spec.GetVolumes())) == 0
}

// target is where a service is failed over to: where its replica is, or, if all its disks are reached from everywhere, where the
// operator says.
func (m *migrations) target(ctx context.Context, spec *pb.ServiceSpec, owner cluster.Owner, replica replicaRecord, req *pb.FailoverRequest) (replicaRecord, error) {
	if replica.Host != "" || !shares(spec) {
		return replica, nil
	}
	switch req.GetToSite() {
	case "":
		return replica, precondition("service %s has external disks only, which are reached from everywhere\nhint: say where it is to run: godwit failover %s --to SITE", spec.GetName(), spec.GetName())
	case owner.Site:
		return replica, precondition("service %s is at site %s already", spec.GetName(), owner.Site)
	}
	host, edge, err := m.services.choose(ctx, spec, req.GetToSite(), "")
	if err == nil {
		err = m.services.up(ctx, host.Name, edge.Name)
	}
	return replicaRecord{Site: host.Site, Host: host.Name}, err
}
