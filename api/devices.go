package api

import godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"

// DeviceAt is the block device that a volume lies on at a site; empty for a file.
func DeviceAt(v *godwitv1.VolumeSpec, site string) string {
	if device, named := v.GetDevices()[site]; named {
		return device
	}
	return v.GetDevices()[""]
}

// deviceView is how a manifest has the devices of a volume: the path, where there is one for all sites, else all of them by site.
func deviceView(devices map[string]string) any {
	if path, everywhere := devices[""]; everywhere && len(devices) == 1 {
		return path
	}
	if len(devices) == 0 {
		return nil
	}
	return devices
}
