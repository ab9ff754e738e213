package network

import (
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestLocalPrefGrowsWithTheEpochAndRefusesWhatDoesNotFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		older := rapid.Uint64Range(0, math.MaxUint32-localPrefBase-1).Draw(t, "older")
		newer := rapid.Uint64Range(older+1, math.MaxUint32-localPrefBase).Draw(t, "newer")
		a, errA := LocalPref(older)
		b, errB := LocalPref(newer)
		if errA != nil || errB != nil || a >= b || a < 100 {
			t.Fatalf("epochs %d, %d: %d (%v), %d (%v)", older, newer, a, errA, b, errB)
		}
	})
	if _, err := LocalPref(math.MaxUint32 - localPrefBase + 1); err == nil {
		t.Error("an epoch beyond 32 bits was accepted")
	}
}

func TestDeviceNamesFitAndLeadBackToTheirEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Uint64().Draw(t, "epoch")
		for prefix, name := range map[string]string{tunnelPrefix: tunnelDevice(epoch), holdPrefix: holdDevice(epoch)} {
			if len(name) > 15 {
				t.Fatalf("%s has %d characters", name, len(name))
			}
			if back, ok := deviceEpoch(name, prefix); !ok || back != epoch {
				t.Fatalf("%s: epoch %d, %t", name, back, ok)
			}
		}
		if v := vni(epoch); v < 1 || v > maxVNI {
			t.Fatalf("VNI %d", v)
		}
		if tunnelMAC(RoleSource, epoch).String() == tunnelMAC(RoleDestination, epoch).String() {
			t.Fatal("both ends have one MAC")
		}
	})
	for _, foreign := range []string{"gt", "gt0x", "gtA", "eth0", "gt00", "gh1"} {
		if _, ok := deviceEpoch(foreign, tunnelPrefix); ok {
			t.Errorf("%s was taken for a tunnel", foreign)
		}
	}
}

func TestTapNamesAreStableAndFit(t *testing.T) {
	if a, b := TapName("shop"), TapName("shop"); a != b || a == TapName("shop2") {
		t.Errorf("%s, %s, %s", a, b, TapName("shop2"))
	}
	rapid.Check(t, func(t *rapid.T) {
		if name := TapName(rapid.String().Draw(t, "service")); len(name) != 15 {
			t.Fatalf("%s has %d characters", name, len(name))
		}
	})
}

func TestIPv6ServiceAddressesAreRefusedClearly(t *testing.T) {
	for address, ok := range map[string]bool{"203.0.113.10": true, "::ffff:203.0.113.10": true, "2001:db8::1": false} {
		if err := checkAddresses([]netip.Addr{netip.MustParseAddr(address)}); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
	if checkAddresses([]netip.Addr{{}}) == nil {
		t.Error("an empty address was accepted")
	}
}
