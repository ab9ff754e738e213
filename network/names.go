package network

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
)

const (
	tunnelPrefix = "gt" // VXLAN devices
	holdPrefix   = "gh" // TUN devices
	tapPrefix    = "gw" // guests' taps

	maxVNI = 1<<24 - 1

	// tableBase keeps our routing tables, one per tunnel, out of the range that people number by hand.
	tableBase = 0x6700_0000
	// rulePriority is before the main table's 32766 and after what administrators usually put first.
	rulePriority = 6700

	// Kernel routes carry who made them, so that what is ours can be told apart and counted.
	edgeProtocol = 103
	hostProtocol = 104

	localPrefBase = 100
)

// LocalPref is the BGP LOCAL_PREF with which an epoch's owner announces: 100 + epoch. 100 is what routers give
// routes without one, so ours are always preferred; a later epoch beats every earlier one without anybody keeping
// count. The attribute has 32 bits: an epoch beyond 4294967195 is an error.
func LocalPref(epoch uint64) (uint32, error) {
	if epoch > math.MaxUint32-localPrefBase {
		return 0, fmt.Errorf("network: epoch %d does not fit LOCAL_PREF (highest: %d)", epoch, uint64(math.MaxUint32-localPrefBase))
	}
	return uint32(localPrefBase + epoch), nil
}

// TapName is the name of a service's tap, the same on every host: "gw" and 65 bits of the name's SHA-256 in base 32
// (15 characters, the most that the kernel allows).
func TapName(service string) string {
	sum := sha256.Sum256([]byte(service))
	return tapPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:13]
}

// vni is the VXLAN network identifier of an epoch. Epochs are unique over all services, so two tunnels that live at
// the same time differ unless 16 million attempts lie between them; PrepareTunnel refuses that case.
func vni(epoch uint64) int { return int(1 + epoch%maxVNI) }

// tunnelDevice and holdDevice name an epoch's devices: two letters and at most 13 digits in base 36.
func tunnelDevice(epoch uint64) string { return tunnelPrefix + strconv.FormatUint(epoch, 36) }
func holdDevice(epoch uint64) string   { return holdPrefix + strconv.FormatUint(epoch, 36) }

// deviceEpoch is the inverse of tunnelDevice and holdDevice.
func deviceEpoch(name, prefix string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	epoch, err := strconv.ParseUint(digits, 36, 64)
	return epoch, err == nil && prefix+strconv.FormatUint(epoch, 36) == name
}

func tunnelTable(epoch uint64) int { return tableBase + vni(epoch) }

// tunnelMAC is what both ends compute for an end of a tunnel, so that nobody needs to ask for it.
func tunnelMAC(role string, epoch uint64) net.HardwareAddr {
	end := byte(0x01)
	if role == RoleDestination {
		end = 0x02
	}
	v := vni(epoch)
	return net.HardwareAddr{0x02, 0x67, end, byte(v >> 16), byte(v >> 8), byte(v)}
}

func otherRole(role string) string {
	if role == RoleSource {
		return RoleDestination
	}
	return RoleSource
}
