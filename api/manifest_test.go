package api

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const shop = `kind: Service
name: shop
site: west
server: {cpus: 1, memory: 256MiB, kernel: vmlinuz, initrd: initrd.gz, commandLine: "console=ttyS0"}
volumes: [{name: root, size: 2GiB, image: debian.qcow2}]
addresses: [203.0.113.10]
`

func TestManifestsOfUsersAreRead(t *testing.T) {
	blob := "b3-" + strings.Repeat("0a", 32)
	shopSpec := &godwitv1.ServiceSpec{
		Name: "shop", Site: "west", Network: "default",
		Server: &godwitv1.ServerSpec{
			Cpus: 1, Memory: 256 << 20, Kernel: "conf/vmlinuz", Initrd: "conf/initrd.gz", CommandLine: "console=ttyS0",
		},
		Volumes:   []*godwitv1.VolumeSpec{{Name: "root", Size: 2 << 30, Image: "conf/debian.qcow2"}},
		Addresses: []string{"203.0.113.10"},
	}
	diskless := &godwitv1.ServiceSpec{
		Name: "a", Site: "b", Network: "red", Server: &godwitv1.ServerSpec{Cpus: 1, Memory: 64 << 20, Kernel: "/k"},
	}
	for name, test := range map[string]struct {
		text string
		want []*godwitv1.ServiceSpec
	}{
		"OK the example of the design": {shop, []*godwitv1.ServiceSpec{shopSpec}},
		"OK block style and comments": {`# a shop
---
kind: Service   # always
name: "shop"
site: west
server:
  cpus: 1
  memory: 268435456
  kernel: ./vmlinuz
  initrd: initrd.gz
  commandLine: >-
    console=ttyS0
volumes:
- name: root
  size: 2GiB
  image: debian.qcow2
addresses:
- 203.0.113.10
---
`, []*godwitv1.ServiceSpec{shopSpec}},
		"OK two documents": {
			shop + "---\nkind: Service\nname: a\nsite: b\nnetwork: red\nserver: {memory: 64MiB, kernel: /k}\n",
			[]*godwitv1.ServiceSpec{shopSpec, diskless},
		},
		"OK blobs and absolute paths, a status": {
			"kind: Service\nname: a\nsite: b\nserver: {memory: 0.5GiB, kernel: " + blob + ", initrd: /i}\nstatus: {phase: running}\n",
			[]*godwitv1.ServiceSpec{{
				Name: "a", Site: "b", Network: "default",
				Server: &godwitv1.ServerSpec{Cpus: 1, Memory: 512 << 20, Kernel: blob, Initrd: "/i"},
			}},
		},
		"OK volumes that stand alone and external ones, which boot": {
			"kind: Service\nname: a\nsite: b\nserver: {memory: 64MiB}\nvolumes: [{name: root, volume: archive}, {name: data, external: /mnt/nfs/a.raw}]\n",
			[]*godwitv1.ServiceSpec{{
				Name: "a", Site: "b", Network: "default", Server: &godwitv1.ServerSpec{Cpus: 1, Memory: 64 << 20},
				Volumes: []*godwitv1.VolumeSpec{{Name: "root", Volume: "archive"}, {Name: "data", External: "/mnt/nfs/a.raw"}},
			}},
		},
		"OK volumes on block devices, which boot": {
			"kind: Service\nname: a\nsite: b\nserver: {memory: 64MiB}\nvolumes:\n- {name: root, size: 1GiB, device: /dev/vg0/a}\n" +
				"- {name: data, size: 1GiB, device: {b: /dev/sdb, c: /dev/sdb}}\n- name: log\n  size: 1GiB\n  device:\n    c: /dev/sdc\n",
			[]*godwitv1.ServiceSpec{{
				Name: "a", Site: "b", Network: "default", Server: &godwitv1.ServerSpec{Cpus: 1, Memory: 64 << 20},
				Volumes: []*godwitv1.VolumeSpec{
					{Name: "root", Size: 1 << 30, Devices: map[string]string{"": "/dev/vg0/a"}},
					{Name: "data", Size: 1 << 30, Devices: map[string]string{"b": "/dev/sdb", "c": "/dev/sdb"}},
					{Name: "log", Size: 1 << 30, Devices: map[string]string{"c": "/dev/sdc"}},
				},
			}},
		},
		"OK two addresses of both families": {
			"kind: Service\nname: a\nsite: b\nserver: {memory: 64MiB, kernel: /k}\nnetwork: red\naddresses: [192.0.2.1, '2001:db8::1']\n",
			[]*godwitv1.ServiceSpec{{
				Name: "a", Site: "b", Network: "red", Server: diskless.GetServer(), Addresses: []string{"192.0.2.1", "2001:db8::1"},
			}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseManifest("conf/shop.yaml", strings.NewReader(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(test.want) {
				t.Fatalf("got %d services, want %d", len(got), len(test.want))
			}
			for i := range got {
				if !proto.Equal(got[i], test.want[i]) {
					t.Errorf("service %d:\n got %v\nwant %v", i, got[i], test.want[i])
				}
			}
		})
	}
}

func TestManifestErrorsNamePlaceFieldAndCause(t *testing.T) {
	with := func(old, replacement string) string { return strings.Replace(shop, old, replacement, 1) }
	for name, test := range map[string]struct{ text, want string }{
		"bad nothing":             {"# nothing\n", `m:1:1: holds no service: begin with 'kind: Service'`},
		"bad list":                {"- a\n", `m:1:1: want a mapping (key: value), got a list`},
		"bad scalar":              {"hello\n", `m:1:1: want a mapping (key: value), got the string "hello"`},
		"bad kind":                {with("kind: Service", "kind: Pod"), `m:1:7: kind: want Service, got "Pod"`},
		"bad missing kind":        {with("kind: Service\n", ""), `m:1:1: kind: is missing`},
		"bad missing name":        {with("name: shop\n", ""), `m:1:1: name: is missing`},
		"bad missing memory":      {with("memory: 256MiB, ", ""), `m:4:9: server.memory: is missing`},
		"bad unknown field":       {shop + "replicas: 3\n", `m:7:1: replicas: unknown field: there are kind, name, site, network, server, volumes, addresses, storage, status`},
		"bad spelling":            {with("addresses:", "adresses:"), `m:6:1: adresses: unknown field: did you mean addresses?`},
		"bad letters":             {with("commandLine:", "commandline:"), `m:4:71: server.commandline: unknown field: did you mean commandLine?`},
		"bad double field":        {shop + "site: east\n", `m:7:1: site: stands here twice`},
		"bad name":                {with("name: shop", "name: Shop_1"), `m:2:7: name: "Shop_1" is no name: want up to 40 of a-z, 0-9 and - with a letter or a digit at both ends`},
		"bad number for a name":   {with("name: shop", "name: 12"), `m:2:7: name: want a string, got 12: put it in quotes`},
		"bad truth for a name":    {with("name: shop", "name: true"), `m:2:7: name: want a string, got the truth value true: put it in quotes`},
		"bad empty value":         {with("site: west", "site:"), `m:3:1: site: has no value`},
		"bad cpus":                {with("cpus: 1", "cpus: 0"), `m:4:16: server.cpus: want 1 to 255, got 0`},
		"bad negative cpus":       {with("cpus: 1", "cpus: -1"), `m:4:16: server.cpus: want a number that is not negative, got -1`},
		"bad words for cpus":      {with("cpus: 1", "cpus: two"), `m:4:16: server.cpus: want a whole number, got the string "two"`},
		"bad unit":                {with("256MiB", "256MB"), `m:4:27: server.memory: "256MB" has the unit "MB": write KiB, MiB, GiB or TiB`},
		"bad memory":              {with("256MiB", "lots"), `m:4:27: server.memory: "lots" is no size, such as 256MiB`},
		"bad small memory":        {with("256MiB", "256"), `m:4:27: server.memory: want at least 16 MiB, got 256 B`},
		"bad crooked memory":      {with("256MiB", "33000001"), `m:4:27: server.memory: want a multiple of 1 MiB, got 33000001 bytes`},
		"bad huge volume":         {with("2GiB", "99999999999TiB"), `m:5:30: volumes[0].size: "99999999999TiB" is too large`},
		"bad list for a size":     {with("2GiB", "[1]"), `m:5:30: volumes[0].size: want a size, such as 256MiB, got a list`},
		"bad size of another":     {with("image: debian.qcow2", "volume: archive"), `m:5:24: volumes[0].size: is that of the volume that is named: leave it out`},
		"bad image of another":    {with("size: 2GiB, image: debian.qcow2", "image: i, volume: archive"), `m:5:24: volumes[0].image: is that of the volume that is named: leave it out`},
		"bad size of an external": {with("image: debian.qcow2", "external: /mnt/a"), `m:5:24: volumes[0].size: is that of the external disk: leave it out`},
		"bad both":                {with("size: 2GiB, image: debian.qcow2", "volume: archive, external: /mnt/a"), `m:5:41: volumes[0].external: a volume is either external or one that stands alone`},
		"bad neither":             {with("size: 2GiB, ", ""), `m:5:11: volumes[0].size: is missing`},
		"bad name of another":     {with("size: 2GiB, image: debian.qcow2", "volume: shop.root"), `m:5:32: volumes[0].volume: "shop.root" is no name: want up to 40 of a-z, 0-9 and - with a letter or a digit at both ends`},
		"bad external path":       {with("size: 2GiB, image: debian.qcow2", "external: nfs/a"), `m:5:34: volumes[0].external: "nfs/a" is no absolute path, without dots, of a disk that all hosts reach`},
		"bad external dots":       {with("size: 2GiB, image: debian.qcow2", "external: /mnt/../a"), `m:5:34: volumes[0].external: "/mnt/../a" is no absolute path, without dots, of a disk that all hosts reach`},
		"bad external twice":      {with("size: 2GiB, image: debian.qcow2}", "external: /a}, {name: b, external: /a}"), `m:5:39: volumes[1].external: /a stands here twice`},
		"bad device path":         {with("image: debian.qcow2", "device: sdb"), `m:5:44: volumes[0].device: "sdb" is no absolute path, without dots, of a block device on the host`},
		"bad device list":         {with("image: debian.qcow2", "device: [/dev/sdb]"), `m:5:44: volumes[0].device: want a string, got a list`},
		"bad device site":         {with("image: debian.qcow2", "device: {West: /dev/sdb}"), `m:5:45: volumes[0].device: want the name of a site, got the string "West"`},
		"bad device at a site":    {with("image: debian.qcow2", "device: {west: sdb}"), `m:5:51: volumes[0].device.west: "sdb" is no absolute path, without dots, of a block device on the host`},
		"bad device without size": {with("size: 2GiB, image: debian.qcow2", "device: /dev/sdb"), `m:5:11: volumes[0].size: is missing`},
		"bad device of another":   {with("size: 2GiB, image: debian.qcow2", "volume: a, device: /dev/sdb"), `m:5:35: volumes[0].device: is that of the volume that is named: leave it out`},
		"bad external device":     {with("size: 2GiB, image: debian.qcow2", "external: /a, device: /dev/sdb"), `m:5:38: volumes[0].device: is for disks that are copied: external has the path of one that is not`},
		"bad device twice":        {with("image: debian.qcow2}", "device: /dev/sdb}, {name: b, size: 1GiB, device: /dev/sdb}"), `m:5:55: volumes[1].device: /dev/sdb stands here twice`},
		"bad volume twice":        {with("size: 2GiB, image: debian.qcow2}", "volume: a}, {name: b, volume: a}"), `m:5:36: volumes[1].volume: a stands here twice`},
		"bad volumes":             {with("[{name: root, size: 2GiB, image: debian.qcow2}]", "root"), `m:5:10: volumes: want a list, got the string "root"`},
		"bad twin volumes":        {with("image: debian.qcow2}]", "image: i}, {name: root, size: 1GiB}]"), `m:5:47: volumes[1].name: there are two volumes "root"`},
		"bad address":             {with("203.0.113.10", "203.0.113.300"), `m:6:13: addresses[0]: "203.0.113.300" is no address, such as 203.0.113.10`},
		"bad prefix":              {with("203.0.113.10", "203.0.113.0/24"), `m:6:13: addresses[0]: "203.0.113.0/24" is a prefix: want an address without /length`},
		"bad loopback":            {with("203.0.113.10", "127.0.0.1"), `m:6:13: addresses[0]: 127.0.0.1 cannot be a service's address`},
		"bad twin address":        {with("203.0.113.10", "192.0.2.1, 192.0.2.1"), `m:6:24: addresses[1]: 192.0.2.1 stands here twice`},
		"bad initrd alone":        {with("kernel: vmlinuz, ", ""), "m:4:9: server.initrd: is for direct boot: server.kernel is missing\nm:4:9: server.commandLine: is for direct boot: server.kernel is missing"},
		"bad nothing to boot":     {"kind: Service\nname: a\nsite: b\nserver: {memory: 64MiB}\n", `m:4:9: server.kernel: is missing, and there is no volume to boot from`},
		"bad empty first volume":  {"kind: Service\nname: a\nsite: b\nserver: {memory: 64MiB}\nvolumes: [{name: a, size: 1GiB}]\n", `m:5:10: volumes[0].image: is missing: without server.kernel the first volume boots`},
		"bad alias":               {with("name: shop", "name: &n shop"), `m:2:7: name: want a string, got an anchor, which Godwit's manifests do not have`},
		"bad tag":                 {with("name: shop", "name: !!str shop"), `m:2:7: name: want a string, got a tag, which Godwit's manifests do not have`},
		"bad mac":                 {with("cpus: 1", "mac: '01:00:00:00:00:00'"), `m:4:15: server.mac: "01:00:00:00:00:00" is no unicast MAC address, such as 52:54:00:12:34:56`},
		"bad two of one name":     {shop + "---\n" + shop, `m:8:1: name: service "shop" stands in this manifest twice`},
		"bad several, all named":  {"kind: Service\nsite: West\nserver: {cpus: x, memory: 1}\nfoo: 1\n", "m:1:1: name: is missing\nm:2:7: site: \"West\" is no name: want up to 40 of a-z, 0-9 and - with a letter or a digit at both ends\nm:3:9: server.kernel: is missing, and there is no volume to boot from\nm:3:16: server.cpus: want a whole number, got the string \"x\"\nm:3:27: server.memory: want at least 16 MiB, got 1 B\nm:4:1: foo: unknown field: there are kind, name, site, network, server, volumes, addresses, storage, status"},
		"bad in the 2nd document": {shop + "---\nkind: Service\nname: x\n", "m:8:1: site: is missing\nm:8:1: server: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			specs, err := ParseManifest("m", strings.NewReader(test.text))
			if err == nil {
				t.Fatalf("accepted as %v", specs)
			}
			if err.Error() != test.want {
				t.Errorf("\n got %s\nwant %s", err, test.want)
			}
			all := ManifestErrors(nil)
			if !errors.As(err, &all) || len(all) == 0 {
				t.Errorf("the error is a %T", err)
			}
		})
	}
}

func TestSyntaxErrorsHaveAPlace(t *testing.T) {
	for _, text := range []string{"a: [1, 2\n", "a: b: c\n", "\t- x: 1", "a: \"x", "{"} {
		_, err := ParseManifest("m", strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), "is not YAML") || !strings.HasPrefix(err.Error(), "m:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(shop)
	f.Add("kind: Service\n---\n- a\n--- |\n  x\n")
	f.Add("server: {<<: *a, ? b : c}\nvolumes: [[], {}, !!x y]\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		specs, err := ParseManifest("m", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, spec := range specs {
			server := spec.GetServer()
			if !IsName(spec.GetName()) || !IsName(spec.GetSite()) || !IsName(spec.GetNetwork()) {
				t.Errorf("bad names accepted: %v", spec)
			}
			if server == nil || server.GetCpus() < 1 || server.GetMemory() < minMemory {
				t.Errorf("bad server accepted: %v", server)
			}
			if server.GetKernel() == "" && (len(spec.GetVolumes()) == 0 || isEmpty(spec.GetVolumes()[0])) {
				t.Errorf("nothing to boot accepted: %v", spec)
			}
		}
	})
}
