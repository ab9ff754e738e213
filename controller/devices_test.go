package controller

import (
	"strings"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

func TestBlockDevicesAreRefusedThatCannotBe(t *testing.T) {
	on := func(name string, devices ...string) *pb.VolumeSpec {
		v := &pb.VolumeSpec{Name: name, Size: 4096, Devices: map[string]string{}}
		for i := 0; i < len(devices); i += 2 {
			v.Devices[devices[i]] = devices[i+1]
		}
		return v
	}
	for name, test := range map[string]struct {
		volumes []*pb.VolumeSpec
		says    string
	}{
		"one":                          {[]*pb.VolumeSpec{on("a", "", "/dev/a"), on("b", "", "/dev/b")}, ""},
		"the same path at two sites":   {[]*pb.VolumeSpec{on("a", "west", "/dev/a"), on("b", "east", "/dev/a")}, ""},
		"by site, and the rest":        {[]*pb.VolumeSpec{on("a", "", "/dev/a"), on("b", "", "/dev/b", "west", "/dev/c")}, ""},
		"two on one":                   {[]*pb.VolumeSpec{on("a", "", "/dev/a"), on("b", "", "/dev/a")}, "both are to lie on /dev/a"},
		"two on one at a site":         {[]*pb.VolumeSpec{on("a", "", "/dev/a"), on("b", "", "/dev/b", "west", "/dev/a")}, "both are to lie on /dev/a"},
		"a path that is not absolute":  {[]*pb.VolumeSpec{on("a", "", "sda")}, "want an absolute path"},
		"a path with dots":             {[]*pb.VolumeSpec{on("a", "", "/dev/../sda")}, "want an absolute path"},
		"a site that can be none":      {[]*pb.VolumeSpec{on("a", "West", "/dev/a")}, "no name of a site"},
		"external and on a device too": {[]*pb.VolumeSpec{{Name: "a", External: "/e", Devices: map[string]string{"": "/dev/a"}}}, "is for disks that are copied"},
	} {
		err := new(services).checkVolumes(test.volumes)
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: want %q, got %v", name, test.says, err)
		}
	}
}

func TestAVolumeOnABlockDeviceNeedsNoRoomOnTheHostsDisk(t *testing.T) {
	spec := &pb.ServiceSpec{Server: &pb.ServerSpec{}, Volumes: []*pb.VolumeSpec{{Name: "a", Size: 1 << 40, Devices: map[string]string{"west": "/dev/a"}}}}
	facts := &pb.HostFacts{DiskFree: 1 << 30}
	if why := unfit(spec, "west", facts); why != "" {
		t.Errorf("where it lies on a device: %s", why)
	}
	if why := unfit(spec, "east", facts); !strings.Contains(why, "too little disk space") {
		t.Errorf("where it is a file: %q", why)
	}
}
