package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

// choose finds a host and the edge of a site for a service. site is spec's own when empty; at, if it is not, the host where all
// volumes of it are that stand alone. The errors say which host was refused for what.
func (s *services) choose(ctx context.Context, spec *pb.ServiceSpec, site, at string) (host, edge agentState, err error) {
	if site == "" {
		site = spec.GetSite()
	}
	if at != "" {
		spec = proto.Clone(spec).(*pb.ServiceSpec)
		spec.Volumes = slices.DeleteFunc(spec.GetVolumes(), func(v *pb.VolumeSpec) bool { return v.GetVolume() != "" }) // they have their place
	}
	all, err := s.agents.all(ctx)
	if err != nil {
		return host, edge, err
	}
	sites := make(map[string]bool)
	var hosts, edges []agentState
	for _, a := range all {
		sites[a.Site] = true
		if a.Site != site {
			continue
		}
		if a.Kind == "edge" {
			edges = append(edges, a)
		} else if at == "" || a.Name == at {
			hosts = append(hosts, a)
		}
	}
	if !sites[site] {
		known := make([]string, 0, len(sites))
		for n := range sites {
			known = append(known, n)
		}
		slices.Sort(known)
		return host, edge, invalid("site %q is not known; known: %s\nhint: a site exists when a host of it has joined (godwit token create --role host --site %s --name NAME)", site, strings.Join(known, ", "), site)
	}
	if edge, err = pick("edge", site, "service", edges, func(agentState) string { return "" }); err != nil {
		return host, edge, err
	}
	host, err = pick("host", site, "service", hosts, func(a agentState) string { return unfit(spec, a.Site, a.Facts) })
	return host, edge, err
}

// pick returns the first agent that is connected and fit, or an error that says why each is not.
func pick(kind, site, what string, candidates []agentState, unfit func(agentState) string) (agentState, error) {
	if len(candidates) == 0 {
		return agentState{}, precondition("site %s has no %s\nhint: godwit token create --role %s --site %s --name NAME, then godwit join there", site, kind, kind, site)
	}
	var reasons []string
	for _, a := range candidates {
		if !a.Ready {
			reasons = append(reasons, fmt.Sprintf("the agent of %s is down (last seen %s)", a.Name, a.LastSeen.UTC().Format(time.RFC3339)))
			continue
		}
		if why := unfit(a); why != "" {
			reasons = append(reasons, fmt.Sprintf("%s: %s", a.Name, why))
			continue
		}
		return a, nil
	}
	return agentState{}, precondition("no %s of site %s can take the %s: %s\nhint: godwit get %ss -o wide shows what each has; where an agent is down, start it (systemctl start godwit-agent)", kind, site, what, strings.Join(reasons, "; "), kind)
}

// unfit says why a host with these facts cannot run the service; empty when it can.
func unfit(spec *pb.ServiceSpec, site string, f *pb.HostFacts) string {
	var size int64
	for _, v := range spec.GetVolumes() {
		if api.DeviceAt(v, site) == "" {
			size += v.GetSize()
		}
	}
	server := spec.GetServer()
	switch {
	case f.GetProblem() != "":
		return f.GetProblem()
	case f.GetMemoryFree() < server.GetMemory():
		return fmt.Sprintf("too little memory: %d MiB free, the server needs %d MiB", f.GetMemoryFree()>>20, server.GetMemory()>>20)
	case f.GetDiskFree() < size:
		return fmt.Sprintf("too little disk space: %d MiB free, the volumes need %d MiB", f.GetDiskFree()>>20, size>>20)
	case server.GetMachineType() != "" && !slices.Contains(f.GetMachineTypes(), server.GetMachineType()):
		return fmt.Sprintf("machine type %s, which the service runs with, is not there (has %s): install the same QEMU at both sites", server.GetMachineType(), brief(f.GetMachineTypes()))
	case server.GetCpuModel() != "" && !slices.Contains(f.GetCpuModels(), server.GetCpuModel()):
		return fmt.Sprintf("CPU model %s, which the service runs with, is not there (has %s)", server.GetCpuModel(), brief(f.GetCpuModels()))
	}
	return ""
}

func brief(names []string) string {
	const most = 4
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// placeOf resolves the addresses of a host and of its site's edge.
func (s *services) placeOf(ctx context.Context, site, host string) (place, error) {
	all, err := s.agents.all(ctx)
	if err != nil {
		return place{}, err
	}
	p := place{Site: site, Host: host}
	for _, a := range all {
		switch {
		case a.Name == host:
			p.HostAddress = a.Address
		case a.Site == site && a.Kind == "edge" && p.Edge == "":
			p.Edge, p.Underlay = a.Name, a.Underlay
		}
	}
	if p.HostAddress == "" || p.Edge == "" {
		return p, precondition("site %s: host %s or its edge has not joined", site, host)
	}
	return p, nil
}
