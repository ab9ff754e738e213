//go:build lab

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// up starts a lab with the fake godwit, and takes it down at the end of the test, which must leave nothing.
func up(t *testing.T, cfg Config) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	if _, err := findBird(""); err != nil {
		t.Skip(err)
	}
	l, err := Up(t.Context(), cfg, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := Down(context.Background(), cfg.Name); err != nil {
			t.Error(err)
		}
		nothingLeft(t, cfg.Name)
	})
	return l
}

func nothingLeft(t *testing.T, name string) {
	t.Helper()
	left, err := Leftovers(name)
	if err != nil {
		t.Error(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func status(t *testing.T, l *Lab) Status {
	t.Helper()
	st, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestALabComesUpShowsItselfAndLeavesNothing(t *testing.T) {
	l := up(t, Config{Name: "t-up"})
	st := status(t, l)
	if !st.Ready || len(st.Nodes) != 7 || len(st.Processes) != 6 || len(st.Links) != 2 || len(st.BGP) != 2 {
		t.Errorf("status %+v", st)
	}
	for _, p := range st.Processes {
		if p.Pid == 0 || p.Restarts != 0 {
			t.Errorf("process %+v", p)
		}
	}
	for _, b := range st.BGP {
		if b.State != "Established" {
			t.Errorf("BGP %+v", b)
		}
	}
	if _, err := Up(t.Context(), Config{Name: "t-up"}, nil); !errors.Is(err, ErrUp) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := Open("t-up"); err != nil {
		t.Error(err)
	}
	removed, err := Down(t.Context(), "t-up")
	if err != nil || len(removed) < 9 {
		t.Errorf("down removed %q, %v", removed, err)
	}
	nothingLeft(t, "t-up")
	if removed, err = Down(t.Context(), "t-up"); err != nil || len(removed) != 0 {
		t.Errorf("down again removed %q, %v", removed, err)
	}
	if _, err := Open("t-up"); !errors.Is(err, ErrNotUp) {
		t.Errorf("open after down: %v", err)
	}
}

// What somebody has open who starts a lab ends with him, and not with the lab: a lock, or a pipe that somebody reads to its end.
func TestALabKeepsNothingOpenOfWhoStartsIt(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "inherited"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	inherited, err := syscall.Dup(int(file.Fd())) // which programs get that are started, as a shell's are
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	l := up(t, Config{Name: "t-open"})
	st := status(t, l)
	pids := []int{st.Pid}
	for _, p := range st.Processes {
		pids = append(pids, p.Pid)
	}
	if len(pids) != 7 {
		t.Errorf("looked at %d processes", len(pids))
	}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		all, err := os.ReadDir(dir)
		if err != nil || len(all) < 3 {
			t.Fatalf("process %d has %d descriptors: %v", pid, len(all), err)
		}
		for _, fd := range all {
			if to, _ := os.Readlink(filepath.Join(dir, fd.Name())); to == file.Name() {
				t.Errorf("process %d has %s as descriptor %s", pid, to, fd.Name())
			}
		}
	}
}

func TestDownClearsUpAfterACrashOfTheSupervisor(t *testing.T) {
	l := up(t, Config{Name: "t-crash"})
	orphan := exec.Command("sleep", "600") // stands for a virtual server, in a session of its own
	orphan.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := startIn(namespaceOf("t-crash", "east-host"), orphan); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status(t, l).Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, err := Open("t-crash"); return errors.Is(err, ErrNotUp) })
	removed, err := Down(t.Context(), "t-crash")
	if err != nil || !strings.Contains(strings.Join(removed, "\n"), "(sleep)") {
		t.Errorf("down removed %q, %v", removed, err)
	}
	if err := orphan.Wait(); err == nil {
		t.Error("the orphan ended by itself")
	}
	nothingLeft(t, "t-crash")
}

func TestWhatDiesIsStartedAgain(t *testing.T) {
	l := up(t, Config{Name: "t-kill"})
	for _, name := range []string{"agent west-host", "controller", "bird"} {
		if err := l.Kill(t.Context(), name, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			for _, p := range status(t, l).Processes {
				if p.Name == name {
					return p.Pid != 0 && p.Restarts >= 1
				}
			}
			return false
		})
	}
	if err := l.Kill(t.Context(), "nobody", syscall.SIGKILL); err == nil {
		t.Error("killed a process that does not exist")
	}
	eventually(t, func() bool {
		for _, b := range status(t, l).BGP {
			if b.State != "Established" {
				return false
			}
		}
		return true
	})
}

func TestANodeWithoutPowerRunsNothing(t *testing.T) {
	l := up(t, Config{Name: "t-power"})
	if err := l.PowerOff(t.Context(), "west-host"); err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		for _, p := range status(t, l).Processes {
			if p.Node == "west-host" && p.Pid != 0 {
				return true
			}
		}
		return false
	}
	eventually(t, func() bool { return !running() })
	if err := l.PowerOn(t.Context(), "west-host"); err != nil {
		t.Fatal(err)
	}
	eventually(t, running)
}

func TestTheSitesAreARoundTripApartUntilALinkIsCut(t *testing.T) {
	l := up(t, Config{Name: "t-link", RTT: 20 * time.Millisecond})
	ping := func() (float64, bool) {
		var out bytes.Buffer
		code, err := l.Exec(t.Context(), "west-edge", []string{"ping", "-n", "-c", "5", "-i", "0.2", "-W", "1", "192.0.2.6"}, Stdio{Out: &out, Err: &out})
		if err != nil {
			t.Skip("ping is needed, of iputils: ", err)
		}
		_, figures, _ := strings.Cut(out.String(), "min/avg/max/mdev = ")
		least, _, _ := strings.Cut(figures, "/")
		ms, _ := strconv.ParseFloat(least, 64)
		return ms, code == 0
	}
	ms, ok := ping()
	if !ok || ms < 20 {
		t.Errorf("round trip %v ms, %v", ms, ok)
	}
	t.Logf("round trip %v ms", ms)
	cut, restored := true, false
	if err := l.SetLink(t.Context(), "west", LinkChange{Cut: &cut}); err != nil {
		t.Fatal(err)
	}
	if _, ok := ping(); ok {
		t.Error("packets pass a cut link")
	}
	if st := status(t, l); !st.Links[0].Cut || st.Links[0].Out.Dropped == 0 {
		t.Errorf("links %+v", st.Links)
	}
	delay := 10 * time.Millisecond
	if err := l.SetLink(t.Context(), "west", LinkChange{Cut: &restored, Delay: &delay}); err != nil {
		t.Fatal(err)
	}
	if ms, ok := ping(); !ok || ms < 30 {
		t.Errorf("after the cut, with 5 ms more: round trip %v ms, %v", ms, ok)
	}
	if err := l.SetLink(t.Context(), "south", LinkChange{}); err == nil {
		t.Error("there is no site south")
	}
}

func TestAFailedStartLeavesNothingAndSaysWhy(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	_, err := Up(t.Context(), Config{Name: "t-fail", Binary: "/bin/false"}, nil)
	if err == nil {
		t.Error("a lab of /bin/false came up")
	}
	nothingLeft(t, "t-fail")
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Up(ctx, Config{Name: "t-fail"}, func(step string) {
		if strings.HasPrefix(step, "joining") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	nothingLeft(t, "t-fail")
}

func TestAFolderOfTheUsersChoiceIsUsedAndRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	l := up(t, Config{Name: "t-dir", Dir: dir})
	if _, err := os.Stat(filepath.Join(dir, "logs", "controller.log")); err != nil {
		t.Error(err)
	}
	if _, err := l.Exec(t.Context(), "core", []string{"mount", "-t", "tmpfs", "none", filepath.Join(dir, "west-host")}, Stdio{}); err != nil {
		t.Fatal(err)
	}
	removed, err := Down(t.Context(), "t-dir")
	if err != nil || !slices.Contains(removed, "mount "+filepath.Join(dir, "west-host")) {
		t.Errorf("down removed %q, %v", removed, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Up(t.Context(), Config{Name: "t-dir", Dir: full}, nil); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder with something in it: %v", err)
	}
}

func TestExecGivesTheExitCode(t *testing.T) {
	l := up(t, Config{Name: "t-exec"})
	var out bytes.Buffer
	code, err := l.Exec(t.Context(), "client", []string{"sh", "-c", "cat; exit 7"}, Stdio{In: strings.NewReader("hello"), Out: &out})
	if err != nil || code != 7 || out.String() != "hello" {
		t.Errorf("%d, %q, %v", code, out.String(), err)
	}
	if _, err := l.Exec(t.Context(), "nowhere", []string{"true"}, Stdio{}); !errors.Is(err, ErrUnknownNode) {
		t.Error(err)
	}
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came true")
		}
	}
}
