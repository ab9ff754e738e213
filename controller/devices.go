package controller

import (
	"maps"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

// checkDevices says what is wrong with the block devices that a volume is to lie on. Whether they are there, free and large enough the
// hosts find out.
func checkDevices(v *pb.VolumeSpec) error {
	for site, device := range v.GetDevices() {
		switch {
		case v.GetExternal() != "":
			return invalid("volume %s is external, and has the path %s: device is for disks that are copied", v.GetName(), v.GetExternal())
		case site != "" && !api.IsName(site):
			return invalid("volume %s: device: %q is no name of a site", v.GetName(), site)
		case !api.IsDevicePath(device):
			return invalid("volume %s: device is %q: want an absolute path, without dots", v.GetName(), device)
		}
	}
	return nil
}

// apart refuses two volumes on one device of a site.
func apart(volumes []*pb.VolumeSpec) error {
	sites := make(map[string]bool)
	for _, v := range volumes {
		for site := range v.GetDevices() {
			sites[site] = true
		}
	}
	for site := range maps.Keys(sites) {
		on := make(map[string]string)
		for _, v := range volumes {
			device := api.DeviceAt(v, site)
			if other, taken := on[device]; device != "" && taken {
				return invalid("volumes %s and %s: both are to lie on %s", other, v.GetName(), device)
			}
			on[device] = v.GetName()
		}
	}
	return nil
}
