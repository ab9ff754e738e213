//go:build lab

package acceptance

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// forCleanup is what tests leave of the time that go test is given: at its end it panics, and no clean-up runs, so that labs, guests and
// mounts would stay. A lab that goes down in good order takes three seconds, one whose supervisor hangs fifteen.
const forCleanup = 45 * time.Second

var errNoTime = errors.New("go test's -timeout is nearly over, and the rest of it is for cleaning up: give more")

// during returns the context of the test, which ends early enough for cleaning up.
func during(t *testing.T) (context.Context, context.CancelFunc) {
	if last, ok := t.Deadline(); ok {
		return context.WithDeadlineCause(t.Context(), last.Add(-forCleanup), errNoTime)
	}
	return context.WithCancel(t.Context())
}

// patience returns until when a test may wait that would wait for limit, and what to say if it was in vain.
func patience(t *testing.T, limit time.Duration) (until time.Time, why string) {
	until = time.Now().Add(limit)
	if last, ok := t.Deadline(); ok && last.Add(-forCleanup).Before(until) {
		return last.Add(-forCleanup), errNoTime.Error()
	}
	return until, "after " + limit.String()
}

// alongside prepares a call of the binary that the test does not wait for at once; it is killed at the end of the test at the latest.
func (w *world) alongside(t *testing.T, args ...string) *exec.Cmd {
	ctx, cancel := during(t)
	t.Cleanup(cancel)
	return w.command(ctx, args...)
}

// TestATestThatIsOutOfTimeCleansUp runs this program with too little time for a test that waits for ever in a lab of its own.
func TestATestThatIsOutOfTimeCleansUp(t *testing.T) {
	const name, waits = "acc-late", "GODWIT_ACCEPTANCE_WAITS"
	if os.Getenv(waits) != "" {
		w := up(t, name)
		w.must(t, "lab", "exec", "--name", w.name, "client", "sleep", "600")
		return
	}
	built(t)
	ctx, cancel := during(t)
	defer cancel()
	const enough = 20 * time.Second // for a lab to come up, or at least to begin to
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout="+(forCleanup+enough).String())
	cmd.Env = append(os.Environ(), waits+"=1", "TMPDIR="+t.TempDir()) // it fails, and so keeps its logs
	out, err := cmd.CombinedOutput()
	if exitCode(err) != 1 || !strings.Contains(string(out), errNoTime.Error()) || strings.Contains(string(out), "panic: test timed out") {
		t.Errorf("a test that is out of time ended with %v: %s", err, out)
	}
	left := &world{name: name, dir: "/run/godwit/lab-" + name}
	if traces := left.traces(t); len(traces) > 0 {
		t.Errorf("it left behind: %q", traces)
		left.binary, _ = built(t)
		left.must(t, "lab", "down", "--name", name)
	}
}
