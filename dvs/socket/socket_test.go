package socket

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The kernel says who is at the other end: here this process itself.
func TestTheKernelSaysWhoIsThere(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	there, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if who, err := conn.Peer(); err != nil || int(who.Pid) != os.Getpid() || int(who.Uid) != os.Getuid() || int(who.Gid) != os.Getgid() {
		t.Errorf("it is %+v, %v", who, err)
	}
	want, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	groups, err := conn.Groups()
	for _, g := range groups {
		got = append(got, int(g))
	}
	slices.Sort(want)
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("its groups are %v, %v, want %v", got, err, want)
	}
}
