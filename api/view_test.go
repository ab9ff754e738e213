package api

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// keys returns the fields of a view as JSON prints them, those of nested objects as "outer.inner".
func keys(t *testing.T, view any) []string {
	t.Helper()
	var out bytes.Buffer
	if err := WriteJSON(&out, view); err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(out.Bytes(), &fields); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, value := range fields {
		names = append(names, name)
		if value == nil {
			t.Errorf("%s is null", name)
		}
		if inner, ok := value.([]any); ok && len(inner) > 0 {
			value = inner[0]
		}
		if inner, ok := value.(map[string]any); ok {
			for key := range inner {
				names = append(names, name+"."+key)
			}
		}
	}
	slices.Sort(names)
	return names
}

// The fields are a contract: to add one here is fine, to take one away breaks somebody's script.
func TestTheViewsOfJSONKeepTheirFields(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := timestamppb.New(start)
	for name, test := range map[string]struct {
		object *godwitv1.Object
		want   string
	}{
		"site": {
			&godwitv1.Object{Kind: &godwitv1.Object_Site{Site: &godwitv1.Site{}}},
			"edges hosts kind name services",
		},
		"host": {
			&godwitv1.Object{Kind: &godwitv1.Object_Host{Host: &godwitv1.Host{LastSeen: now}}},
			"accelerator address cpuModels diskFree dvs kind lastSeen machineTypes memoryFree memoryTotal name platform problem ready site version",
		},
		"edge": {
			&godwitv1.Object{Kind: &godwitv1.Object_Edge{Edge: &godwitv1.Edge{LastSeen: now}}},
			"address kind lastSeen name ready site underlay",
		},
		"service": {
			&godwitv1.Object{Kind: &godwitv1.Object_Service{Service: &godwitv1.Service{Spec: &godwitv1.ServiceSpec{
				Server:  &godwitv1.ServerSpec{Kernel: "k", Initrd: "i", CommandLine: "c", MachineType: "m", CpuModel: "c", Mac: "m"},
				Volumes: []*godwitv1.VolumeSpec{{Image: "i", Size: 1, External: "/e", Devices: map[string]string{"": "/dev/e"}}},
				Storage: &godwitv1.StorageSpec{MaxLagMs: 1, MaxLagBytes: 1},
			}}}},
			"addresses kind name network server server.commandLine server.cpuModel server.cpus server.initrd server.kernel server.mac " +
				"server.machineType server.memory site status status.epoch status.host status.message status.migration status.phase " +
				"status.replicaError status.replicaHost status.replicaSite status.site storage storage.maxLag storage.maxLagBytes storage.mode " +
				"storage.replicateTo volumes volumes.device volumes.external volumes.image volumes.name volumes.size",
		},
		"volume": {
			&godwitv1.Object{Kind: &godwitv1.Object_Volume{Volume: &godwitv1.Volume{PointTime: now}}},
			"alert allocated backing backlog clients complete connected copied epoch error etaMs host kind lag lagMs mode name overflow path phase point pointTime " +
				"rate resyncing role service shipped site size slowedMs standalone tail throttled wanted",
		},
		"migration": {
			&godwitv1.Object{Kind: &godwitv1.Object_Migration{Migration: &godwitv1.Migration{
				HoldUntil: now, Started: now, Ended: now, Phases: []*godwitv1.PhaseTime{{}}, Lanes: []*godwitv1.Lane{{}},
			}}},
			"blackoutMs blackoutUncertaintyMs destination destinationHost diskBytes droppedPackets ended epoch heldPackets hold holdUntil kind " +
				"lanes lanes.done lanes.etaMs lanes.message lanes.participant lanes.rate lanes.role lanes.state lanes.total lanes.verb " +
				"memoryBytes name notes phase phases phases.lengthMs phases.phase phases.startMs ready reason service source sourceHost " +
				"started syncWindowMs totalMs tunnelPackets wanBytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := strings.Join(keys(t, View(test.object)), " "); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestEmptyViewsHaveListsAndNumbers(t *testing.T) {
	for _, view := range []any{ViewList(nil), ViewService(nil), ViewMigration(nil), View(&godwitv1.Object{Kind: &godwitv1.Object_Host{}})} {
		keys(t, view)
	}
	if View(&godwitv1.Object{}) != nil || len(ViewList([]*godwitv1.Object{{}}).Items) != 0 {
		t.Error("an object without a kind is shown")
	}
	m := &godwitv1.Migration{Figures: &godwitv1.Figures{BlackoutMs: math.NaN()}, Lanes: []*godwitv1.Lane{{EtaMs: math.Inf(1)}}}
	if err := WriteJSON(&bytes.Buffer{}, ViewMigration(m)); err != nil {
		t.Errorf("what is no number breaks the output: %v", err)
	}
}

func TestAPrintedServiceCanBeAppliedAgain(t *testing.T) {
	spec := &godwitv1.ServiceSpec{
		Name: "shop", Site: "west", Network: "default", Addresses: []string{"203.0.113.10"},
		Server:  &godwitv1.ServerSpec{Cpus: 2, Memory: 256 << 20, Kernel: "b3-" + strings.Repeat("ab", 32), MachineType: "q35", Mac: "52:54:00:00:00:01"},
		Volumes: []*godwitv1.VolumeSpec{{Name: "root", Size: 1 << 30}},
		Storage: &godwitv1.StorageSpec{ReplicateTo: "east", Mode: "flush", MaxLagMs: 5500, MaxLagBytes: 64 << 20},
	}
	for name, write := range map[string]func(w *bytes.Buffer, view any) error{
		"YAML": func(w *bytes.Buffer, view any) error { return WriteYAML(w, view) },
		"JSON": func(w *bytes.Buffer, view any) error { return WriteJSON(w, view) },
	} {
		var out bytes.Buffer
		if err := write(&out, ViewService(&godwitv1.Service{Spec: spec})); err != nil {
			t.Fatal(err)
		}
		back, err := ParseManifest("m", &out)
		if err != nil || len(back) != 1 || back[0].String() != spec.String() {
			t.Errorf("%s: got %v, %v", name, back, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "4096": 4096, "1KiB": 1024, "256MiB": 256 << 20, "1.5 GiB": 3 << 29, "2TiB": 2 << 40, "7B": 7} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("OK %q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MiB", "1MB", "1m", "-1", "1e9", "0.3B", "1/2GiB", "9999999TiB", "1.2.3", "0x10"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("bad %q is taken for %d", text, got)
		}
	}
	for bytes, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1 << 20: "1 MiB", 64487424: "61.5 MiB", 256 << 20: "256 MiB", 3 << 29: "1.5 GiB"} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("%d is %q, want %q", bytes, got, want)
		}
	}
}
