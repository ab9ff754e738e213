package api

import (
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	maxCPUs     = 255
	minMemory   = 16 << 20
	memoryStep  = 1 << 20
	minVolume   = 1 << 20
	volumeStep  = 4 << 10
	maxName     = 40
	maxVolumes  = 8
	serviceKind = "Service"
)

// service reads one document; nil when it is none.
func (d *decoder) service(node ast.Node) *godwitv1.ServiceSpec {
	spec := &godwitv1.ServiceSpec{Network: DefaultNetwork}
	var server, volumes ast.Node
	ok := d.mapping(node, "", []field{
		{name: "kind", required: true, read: d.kind},
		{name: "name", required: true, read: d.name(&spec.Name)},
		{name: "site", required: true, read: d.name(&spec.Site)},
		{name: "network", read: d.name(&spec.Network)},
		{name: "server", required: true, read: func(node ast.Node, path string) {
			server = node
			spec.Server = d.server(node, path)
		}},
		{name: "volumes", read: func(node ast.Node, path string) {
			volumes = node
			spec.Volumes = d.volumes(node, path)
		}},
		{name: "addresses", read: func(node ast.Node, path string) { spec.Addresses = d.addresses(node, path) }},
		{name: "storage", read: func(node ast.Node, path string) { spec.Storage = d.storage(node, path) }},
		// What 'godwit get -o yaml' printed may be applied again; the status is Godwit's to say.
		{name: "status", read: func(ast.Node, string) {}},
	})
	if !ok {
		return nil
	}
	if server != nil {
		d.bootable(spec, server, volumes)
	}
	return spec
}

// bootable checks that there is something to boot from.
func (d *decoder) bootable(spec *godwitv1.ServiceSpec, server, volumes ast.Node) {
	kernel := hasField(server, "kernel")
	if kernel {
		return
	}
	for _, name := range []string{"initrd", "commandLine"} {
		if hasField(server, name) {
			d.fail(server, "server."+name, "is for direct boot: server.kernel is missing")
		}
	}
	switch {
	case volumes == nil:
		d.fail(server, "server.kernel", "is missing, and there is no volume to boot from")
	case len(spec.GetVolumes()) > 0 && isEmpty(spec.GetVolumes()[0]) && isSequence(volumes):
		d.fail(volumes, "volumes[0].image", "is missing: without server.kernel the first volume boots")
	case len(spec.GetVolumes()) == 0 && isSequence(volumes):
		d.fail(volumes, "volumes", "is empty: without server.kernel the first volume boots")
	}
}

func (d *decoder) kind(node ast.Node, path string) {
	if kind, ok := d.text(node, path); ok && kind != serviceKind {
		d.fail(node, path, "want %s, got %q", serviceKind, shorten(kind))
	}
}

func (d *decoder) server(node ast.Node, path string) *godwitv1.ServerSpec {
	server := &godwitv1.ServerSpec{Cpus: 1}
	d.mapping(node, path, []field{
		{name: "cpus", read: func(node ast.Node, path string) {
			if cpus, ok := d.integer(node, path); ok && (cpus < 1 || cpus > maxCPUs) {
				d.fail(node, path, "want 1 to %d, got %d", maxCPUs, cpus)
			} else if ok {
				server.Cpus = int32(cpus)
			}
		}},
		{name: "memory", required: true, read: d.size(&server.Memory, minMemory, memoryStep)},
		{name: "kernel", read: d.path(&server.Kernel)},
		{name: "initrd", read: d.path(&server.Initrd)},
		{name: "commandLine", read: d.line(&server.CommandLine)},
		{name: "machineType", read: d.line(&server.MachineType)},
		{name: "cpuModel", read: d.line(&server.CpuModel)},
		{name: "mac", read: func(node ast.Node, path string) {
			text, ok := d.text(node, path)
			if !ok {
				return
			}
			mac, err := net.ParseMAC(text)
			if err != nil || len(mac) != 6 || mac[0]&1 == 1 {
				d.fail(node, path, "%q is no unicast MAC address, such as 52:54:00:12:34:56", shorten(text))
				return
			}
			server.Mac = mac.String()
		}},
	})
	return server
}

func (d *decoder) volumes(node ast.Node, path string) []*godwitv1.VolumeSpec {
	var volumes []*godwitv1.VolumeSpec
	seen := map[string]bool{}
	d.sequence(node, path, func(item ast.Node, path string) {
		volume := &godwitv1.VolumeSpec{}
		isMapping := d.mapping(item, path, []field{
			{name: "name", required: true, read: d.name(&volume.Name)},
			{name: "size", read: d.size(&volume.Size, minVolume, volumeStep)},
			{name: "image", read: d.path(&volume.Image)},
			{name: "volume", read: d.name(&volume.Volume)},
			{name: "external", read: d.shared(&volume.External)},
			{name: "device", read: func(node ast.Node, path string) { volume.Devices = d.devices(node, path) }},
		})
		if isMapping {
			d.content(item, path)
		}
		d.once(item, join(path, "volume"), volume.GetVolume(), seen)
		d.once(item, join(path, "external"), volume.GetExternal(), seen)
		for _, site := range slices.Sorted(maps.Keys(volume.GetDevices())) {
			d.once(item, join(path, "device"), atSite(volume.GetDevices()[site], site), seen)
		}
		if volume.GetName() != "" && seen[volume.GetName()] {
			d.fail(item, join(path, "name"), "there are two volumes %q", volume.GetName())
		}
		seen[volume.GetName()] = true
		volumes = append(volumes, volume)
	})
	if len(volumes) > maxVolumes {
		d.fail(node, path, "a service has at most %d volumes, got %d", maxVolumes, len(volumes))
	}
	return volumes
}

// content checks that it is said once where the content and the size of a volume come from.
func (d *decoder) content(item ast.Node, path string) {
	alone, external := hasField(item, "volume"), hasField(item, "external")
	if alone && external {
		d.fail(keyOf(item, "external"), join(path, "external"), "a volume is either external or one that stands alone")
		return
	}
	for _, name := range []string{"size", "image", "device"} {
		switch {
		case alone && hasField(item, name):
			d.fail(keyOf(item, name), join(path, name), "is that of the volume that is named: leave it out")
		case external && name == "device" && hasField(item, name):
			d.fail(keyOf(item, name), join(path, name), "is for disks that are copied: external has the path of one that is not")
		case external && hasField(item, name):
			d.fail(keyOf(item, name), join(path, name), "is that of the external disk: leave it out")
		case name == "size" && !alone && !external && !hasField(item, name):
			d.fail(item, join(path, name), "is missing")
		}
	}
}

// once refuses that two volumes of a service are one disk.
func (d *decoder) once(item ast.Node, path, disk string, seen map[string]bool) {
	if key := "disk " + disk; disk != "" {
		if seen[key] {
			d.fail(item, path, "%s stands here twice", disk)
		}
		seen[key] = true
	}
}

// isEmpty says that a volume begins as zeroes.
func isEmpty(v *godwitv1.VolumeSpec) bool {
	return v.GetImage() == "" && v.GetVolume() == "" && v.GetExternal() == "" && len(v.GetDevices()) == 0
}

// atSite names a device for people: the same path at two sites is two devices.
func atSite(device, site string) string {
	if site == "" {
		return device
	}
	return device + " of site " + site
}

// devices reads the block device of a volume: one path for all sites, or a mapping of sites to paths.
func (d *decoder) devices(node ast.Node, path string) map[string]string {
	all := make(map[string]string)
	read := func(site string, node ast.Node, path string) {
		text, ok := d.text(node, path)
		switch {
		case !ok:
		case !IsDevicePath(text):
			d.fail(node, path, "%q is no absolute path, without dots, of a block device on the host", shorten(text))
		default:
			all[site] = text
		}
	}
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
	default:
		read("", node, path)
		return all
	}
	values, _ := d.pairs(node, path)
	for _, value := range values {
		site, ok := value.Key.(*ast.StringNode)
		switch {
		case !ok || !IsName(site.Value):
			d.fail(value.Key, path, "want the name of a site, got %s", describe(value.Key))
		case all[site.Value] != "":
			d.fail(value.Key, join(path, site.Value), "stands here twice")
		default:
			read(site.Value, value.Value, join(path, site.Value))
		}
	}
	return all
}

// IsDevicePath says whether text can be the path of a block device: absolute, and without detours.
func IsDevicePath(text string) bool {
	return filepath.IsAbs(text) && filepath.Clean(text) == text && !strings.ContainsAny(text, "\n\r")
}

func (d *decoder) addresses(node ast.Node, path string) []string {
	var addresses []string
	seen := map[netip.Addr]bool{}
	d.sequence(node, path, func(item ast.Node, path string) {
		text, ok := d.text(item, path)
		if !ok {
			return
		}
		address, err := netip.ParseAddr(text)
		switch {
		case err != nil && strings.Contains(text, "/"):
			d.fail(item, path, "%q is a prefix: want an address without /length", shorten(text))
		case err != nil || address.Zone() != "" || address.Is4In6():
			d.fail(item, path, "%q is no address, such as 203.0.113.10", shorten(text))
		case !address.IsGlobalUnicast():
			d.fail(item, path, "%s cannot be a service's address", address)
		case seen[address]:
			d.fail(item, path, "%s stands here twice", address)
		default:
			seen[address] = true
			addresses = append(addresses, address.String())
		}
	})
	return addresses
}

// name reads a name such as may be part of a file's, a host's or an interface's.
func (d *decoder) name(into *string) func(ast.Node, string) {
	return func(node ast.Node, path string) {
		text, ok := d.text(node, path)
		if !ok {
			return
		}
		if !IsName(text) {
			d.fail(node, path, "%q is no name: want up to %d of a-z, 0-9 and - with a letter or a digit at both ends", shorten(text), maxName)
			return
		}
		*into = text
	}
}

// IsName says whether text can be the name of a site, a service or a volume: a short DNS label.
func IsName(text string) bool {
	if text == "" || len(text) > maxName || text[0] == '-' || text[len(text)-1] == '-' {
		return false
	}
	return strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// path reads a file's path and takes it from the manifest's directory.
func (d *decoder) path(into *string) func(ast.Node, string) {
	return func(node ast.Node, path string) {
		text, ok := d.text(node, path)
		switch {
		case !ok:
		case strings.TrimSpace(text) == "":
			d.fail(node, path, "is empty: want the path of a file")
		case filepath.IsAbs(text) || IsBlobName(text):
			*into = text
		default:
			*into = filepath.Join(d.dir, text)
		}
	}
}

// shared reads the path of a disk on the hosts.
func (d *decoder) shared(into *string) func(ast.Node, string) {
	return func(node ast.Node, path string) {
		text, ok := d.text(node, path)
		switch {
		case !ok:
		case !filepath.IsAbs(text) || filepath.Clean(text) != text:
			d.fail(node, path, "%q is no absolute path, without dots, of a disk that all hosts reach", shorten(text))
		default:
			*into = text
		}
	}
}

func (d *decoder) line(into *string) func(ast.Node, string) {
	return func(node ast.Node, path string) {
		text, ok := d.text(node, path)
		if !ok {
			return
		}
		if strings.ContainsAny(text, "\n\r") {
			d.fail(node, path, "want one line")
			return
		}
		*into = text
	}
}

func hasField(node ast.Node, name string) bool { return keyOf(node, name) != nil }

// keyOf is the key of a mapping's field; nil when it has none of that name.
func keyOf(node ast.Node, name string) ast.Node {
	var values []*ast.MappingValueNode
	switch at := node.(type) {
	case *ast.MappingNode:
		values = at.Values
	case *ast.MappingValueNode:
		values = append(values, at)
	}
	for _, value := range values {
		if key, ok := value.Key.(*ast.StringNode); ok && key.Value == name {
			return key
		}
	}
	return nil
}

func isSequence(node ast.Node) bool {
	_, ok := node.(*ast.SequenceNode)
	return ok
}
