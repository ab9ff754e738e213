package api

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/types/known/timestamppb"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// The views are what `-o json` and `-o yaml` print, a contract with the scripts that read it (docs/cli-json.md): fields are
// added, never renamed, and every number is plain: bytes, bytes per second, milliseconds where the name ends in Ms. Lists are
// never null. Times are RFC 3339 in UTC and absent when they have not come yet.

// ListView is several objects.
type ListView struct {
	Kind  string `json:"kind"`
	Items []any  `json:"items"`
}

// SiteView is a Site.
type SiteView struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Hosts    int32  `json:"hosts"`
	Edges    int32  `json:"edges"`
	Services int32  `json:"services"`
}

// HostView is a Host.
type HostView struct {
	Kind         string   `json:"kind"`
	Name         string   `json:"name"`
	Site         string   `json:"site"`
	Address      string   `json:"address"`
	DVS          string   `json:"dvs"`
	Ready        bool     `json:"ready"`
	LastSeen     string   `json:"lastSeen,omitempty"`
	Platform     string   `json:"platform"`
	Version      string   `json:"version"`
	Accelerator  string   `json:"accelerator"`
	MachineTypes []string `json:"machineTypes"`
	CPUModels    []string `json:"cpuModels"`
	MemoryTotal  int64    `json:"memoryTotal"`
	MemoryFree   int64    `json:"memoryFree"`
	DiskFree     int64    `json:"diskFree"`
	Problem      string   `json:"problem"`
}

// EdgeView is an Edge.
type EdgeView struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Site     string `json:"site"`
	Address  string `json:"address"`
	Underlay string `json:"underlay"`
	Ready    bool   `json:"ready"`
	LastSeen string `json:"lastSeen,omitempty"`
}

// ServiceView is a Service. Without its status it is a manifest: what was printed can be applied again.
type ServiceView struct {
	Kind      string           `json:"kind"`
	Name      string           `json:"name"`
	Site      string           `json:"site"`
	Network   string           `json:"network"`
	Server    ServerView       `json:"server"`
	Volumes   []VolumeSpecView `json:"volumes"`
	Addresses []string         `json:"addresses"`
	Storage   *StorageView     `json:"storage,omitempty"`
	Status    StatusView       `json:"status"`
}

// ServerView is a ServerSpec.
type ServerView struct {
	CPUs        int32  `json:"cpus"`
	Memory      int64  `json:"memory"`
	Kernel      string `json:"kernel,omitempty"`
	Initrd      string `json:"initrd,omitempty"`
	CommandLine string `json:"commandLine,omitempty"`
	MachineType string `json:"machineType,omitempty"`
	CPUModel    string `json:"cpuModel,omitempty"`
	MAC         string `json:"mac,omitempty"`
}

// VolumeSpecView is a VolumeSpec.
type VolumeSpecView struct {
	Name  string `json:"name"`
	Size  int64  `json:"size,omitempty"`
	Image string `json:"image,omitempty"`
	// Volume is one that stands alone, External the path of a disk that all sites reach: then there is no size here.
	Volume   string `json:"volume,omitempty"`
	External string `json:"external,omitempty"`
	// Device is the path of a block device, or several by site; nil for a file.
	Device any `json:"device,omitempty"`
}

// StorageView is a StorageSpec, as a manifest has it.
type StorageView struct {
	ReplicateTo string `json:"replicateTo"`
	Mode        string `json:"mode"`
	MaxLag      string `json:"maxLag,omitempty"`
	MaxLagBytes int64  `json:"maxLagBytes,omitempty"`
}

// StatusView is a ServiceStatus.
type StatusView struct {
	Phase     string `json:"phase"`
	Site      string `json:"site"`
	Host      string `json:"host"`
	Epoch     uint64 `json:"epoch"`
	Message   string `json:"message"`
	Migration string `json:"migration"`
	// ReplicaSite and ReplicaHost are where the standing replica of the volumes is, ReplicaError why it is not as asked.
	ReplicaSite  string `json:"replicaSite"`
	ReplicaHost  string `json:"replicaHost"`
	ReplicaError string `json:"replicaError"`
	// Failover is the last one, absent when there was none.
	Failover *FailoverView `json:"failover,omitempty"`
}

// FailoverView is a Failover.
type FailoverView struct {
	Kind     string `json:"kind"`
	Service  string `json:"service"`
	FromSite string `json:"fromSite"`
	FromHost string `json:"fromHost"`
	ToSite   string `json:"toSite"`
	ToHost   string `json:"toHost"`
	Epoch    uint64 `json:"epoch"`
	At       string `json:"at"`
	Forced   bool   `json:"forced"`
	Mode     string `json:"mode"`
	// Point and PointTime are the replica's last consistent point, and when the primary was there.
	Point     uint64 `json:"point"`
	PointTime string `json:"pointTime,omitempty"`
	// Snapshot is the one that it went back to.
	Snapshot string `json:"snapshot,omitempty"`
}

// ViewFailover returns what `failover` prints; nil for none.
func ViewFailover(service string, f *godwitv1.Failover) *FailoverView {
	if f == nil {
		return nil
	}
	return &FailoverView{
		Kind: "Failover", Service: service, FromSite: f.GetFromSite(), FromHost: f.GetFromHost(), ToSite: f.GetToSite(), ToHost: f.GetToHost(),
		Epoch: f.GetEpoch(), At: timeText(f.GetAt()), Forced: f.GetForced(), Mode: f.GetMode(), Point: f.GetPoint(), PointTime: timeText(f.GetPointTime()),
		Snapshot: f.GetSnapshot(),
	}
}

// VolumeView is a Volume.
type VolumeView struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Service   string `json:"service"`
	Site      string `json:"site"`
	Host      string `json:"host"`
	Size      int64  `json:"size"`
	Allocated int64  `json:"allocated"`
	Role      string `json:"role"`
	Mode      string `json:"mode"`
	Epoch     uint64 `json:"epoch"`
	Lag       int64  `json:"lag"`
	// From here on: of a standing replication, all volumes of the service together; see docs/cli-json.md.
	Wanted    string  `json:"wanted"`
	LagMs     float64 `json:"lagMs"`
	Point     uint64  `json:"point"`
	PointTime string  `json:"pointTime,omitempty"`
	Complete  bool    `json:"complete"`
	Connected bool    `json:"connected"`
	Throttled int32   `json:"throttled"`
	SlowedMs  float64 `json:"slowedMs"`
	Overflow  bool    `json:"overflow"`
	Resyncing bool    `json:"resyncing"`
	Copied    int64   `json:"copied"`
	Rate      int64   `json:"rate"`
	EtaMs     float64 `json:"etaMs"`
	Shipped   int64   `json:"shipped"`
	Backlog   int64   `json:"backlog"`
	Tail      int64   `json:"tail"`
	Path      string  `json:"path"`
	Clients   int32   `json:"clients"`
	Error     string  `json:"error"`
	// Standalone: made by itself; Phase is of such a volume. Backing is where its bytes are, Alert what is to be done about what.
	Standalone bool   `json:"standalone"`
	Phase      string `json:"phase"`
	Backing    string `json:"backing"`
	Alert      string `json:"alert"`
}

// View returns the view of an object, or nil for an object of a kind that this version does not know.
func View(object *godwitv1.Object) any {
	switch kind := object.GetKind().(type) {
	case *godwitv1.Object_Site:
		site := kind.Site
		return SiteView{Kind: "Site", Name: site.GetName(), Hosts: site.GetHosts(), Edges: site.GetEdges(), Services: site.GetServices()}
	case *godwitv1.Object_Host:
		return hostView(kind.Host)
	case *godwitv1.Object_Edge:
		edge := kind.Edge
		return EdgeView{
			Kind: "Edge", Name: edge.GetName(), Site: edge.GetSite(), Address: edge.GetAddress(), Underlay: edge.GetUnderlay(),
			Ready: edge.GetReady(), LastSeen: timeText(edge.GetLastSeen()),
		}
	case *godwitv1.Object_Service:
		return ViewService(kind.Service)
	case *godwitv1.Object_Volume:
		return volumeView(kind.Volume)
	case *godwitv1.Object_Migration:
		return ViewMigration(kind.Migration)
	default:
		return nil
	}
}

// ViewList returns the view of several objects.
func ViewList(objects []*godwitv1.Object) ListView {
	out := ListView{Kind: "List", Items: []any{}}
	for _, object := range objects {
		if view := View(object); view != nil {
			out.Items = append(out.Items, view)
		}
	}
	return out
}

// ViewService returns the view of a service.
func ViewService(service *godwitv1.Service) ServiceView {
	spec, status := service.GetSpec(), service.GetStatus()
	server := spec.GetServer()
	out := ServiceView{
		Kind: "Service", Name: spec.GetName(), Site: spec.GetSite(), Network: spec.GetNetwork(),
		Server: ServerView{
			CPUs: server.GetCpus(), Memory: server.GetMemory(), Kernel: server.GetKernel(), Initrd: server.GetInitrd(),
			CommandLine: server.GetCommandLine(), MachineType: server.GetMachineType(), CPUModel: server.GetCpuModel(), MAC: server.GetMac(),
		},
		Volumes: []VolumeSpecView{}, Addresses: list(spec.GetAddresses()),
		Status: StatusView{
			Phase: status.GetPhase(), Site: status.GetSite(), Host: status.GetHost(), Epoch: status.GetEpoch(),
			Message: status.GetMessage(), Migration: status.GetMigration(),
			ReplicaSite: status.GetReplicaSite(), ReplicaHost: status.GetReplicaHost(), ReplicaError: status.GetReplicaError(),
			Failover: ViewFailover(spec.GetName(), status.GetFailover()),
		},
	}
	for _, volume := range spec.GetVolumes() {
		view := VolumeSpecView{Name: volume.GetName(), Size: volume.GetSize(), Image: volume.GetImage(), Volume: volume.GetVolume(), External: volume.GetExternal()}
		if volume.GetVolume() != "" {
			view.Size = 0
		} else {
			view.Device = deviceView(volume.GetDevices())
		}
		out.Volumes = append(out.Volumes, view)
	}
	if s := spec.GetStorage(); s != nil {
		out.Storage = &StorageView{ReplicateTo: s.GetReplicateTo(), Mode: s.GetMode(), MaxLagBytes: s.GetMaxLagBytes()}
		if s.GetMaxLagMs() != 0 {
			out.Storage.MaxLag = (time.Duration(s.GetMaxLagMs()) * time.Millisecond).String()
		}
	}
	return out
}

// WriteJSON writes a view as JSON, indented, with a newline at its end.
func WriteJSON(w io.Writer, view any) error {
	text, err := json.MarshalIndent(view, "", "  ")
	if err != nil {
		return fmt.Errorf("print %T as JSON: %w", view, err)
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// WriteYAML writes a view as YAML, with the names and the order that WriteJSON gives it.
func WriteYAML(w io.Writer, view any) error {
	text, err := json.Marshal(view)
	if err == nil {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return fmt.Errorf("print %T as YAML: %w", view, err)
	}
	_, err = w.Write(text)
	return err
}

func hostView(host *godwitv1.Host) HostView {
	facts := host.GetFacts()
	return HostView{
		Kind: "Host", Name: host.GetName(), Site: host.GetSite(), Address: host.GetAddress(), DVS: host.GetDvs(), Ready: host.GetReady(),
		LastSeen: timeText(host.GetLastSeen()), Platform: facts.GetPlatform(), Version: facts.GetVersion(),
		Accelerator: facts.GetAccelerator(), MachineTypes: list(facts.GetMachineTypes()), CPUModels: list(facts.GetCpuModels()),
		MemoryTotal: facts.GetMemoryTotal(), MemoryFree: facts.GetMemoryFree(), DiskFree: facts.GetDiskFree(), Problem: facts.GetProblem(),
	}
}

func volumeView(volume *godwitv1.Volume) VolumeView {
	return VolumeView{
		Kind: "Volume", Name: volume.GetName(), Service: volume.GetService(), Site: volume.GetSite(), Host: volume.GetHost(),
		Size: volume.GetSize(), Allocated: volume.GetAllocated(), Role: volume.GetRole(), Mode: volume.GetMode(),
		Epoch: volume.GetEpoch(), Lag: volume.GetLag(),
		Wanted: volume.GetWanted(), LagMs: volume.GetLagMs(), Point: volume.GetPoint(), PointTime: timeText(volume.GetPointTime()),
		Complete: volume.GetComplete(), Connected: volume.GetConnected(), Throttled: volume.GetThrottled(), SlowedMs: volume.GetSlowedMs(),
		Overflow: volume.GetOverflow(), Resyncing: volume.GetResyncing(), Copied: volume.GetCopied(), Rate: volume.GetRate(),
		EtaMs: volume.GetEtaMs(), Shipped: volume.GetShipped(), Backlog: volume.GetBacklog(), Tail: volume.GetTail(),
		Path: volume.GetPath(), Clients: volume.GetClients(), Error: volume.GetError(),
		Standalone: volume.GetStandalone(), Phase: volume.GetPhase(), Backing: volume.GetBacking(), Alert: volume.GetAlert(),
	}
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().IsZero() {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339Nano)
}

func list(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}
