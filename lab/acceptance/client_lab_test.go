//go:build lab

package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/lab/probe"
)

// ask sends the service one line from the client's node and returns the line that comes back.
func (w *world) ask(t *testing.T, port, line string) result {
	t.Helper()
	const script = `exec 3<>/dev/tcp/$0/$1 && echo "$2" >&3 && IFS= read -r -t 290 answer <&3 && echo "$answer"`
	return w.exec(t, "client", "timeout", "300", "bash", "-c", script, address, port, line)
}

// verdict is what the guest says of its writes.
type verdict struct {
	Acknowledged uint64 `json:"acknowledged"`
	Lost         uint64 `json:"lost"`
	FirstLost    string `json:"first_lost"`
	IOErrors     uint64 `json:"io_errors"`
	Error        string `json:"error"`
}

// verify lets the guest read back every acknowledged write, and wants them all: at least as many as the client saw.
func (w *world) verify(t *testing.T, seen uint64) {
	t.Helper()
	r := w.ask(t, "7001", "verify")
	var v verdict
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Errorf("the guest cannot be asked for its writes: %v: %v", err, r)
		return
	}
	if v.Error != "" || v.Lost != 0 || v.IOErrors != 0 {
		t.Errorf("writes were lost: %+v", v)
	}
	if v.Acknowledged < seen {
		t.Errorf("the guest knows of %d acknowledged writes, the client saw %d", v.Acknowledged, seen)
	}
}

// prober is a client that holds one connection and asks every millisecond.
type prober struct {
	cmd      *exec.Cmd
	out, err bytes.Buffer
}

// probe connects a client. It is told to end at the end of the test at the latest.
func (w *world) probe(t *testing.T) *prober {
	t.Helper()
	p := &prober{cmd: w.alongside(t, "lab", "probe", "--name", w.name, address+":7000", "-o", "json")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	eventually(t, 20*time.Second, func() string {
		if w.connections(t) == 0 {
			return "the client does not connect"
		}
		return ""
	})
	return p
}

// connections counts the client's connections to the service.
func (w *world) connections(t *testing.T) int {
	t.Helper()
	r := w.exec(t, "client", "ss", "-Htn", "state", "established", "dst", address+":7000")
	return bytes.Count([]byte(r.out), []byte("\n"))
}

// stop ends the probe in good order: it waits for the answers that are due. The connection must have lived, and every
// request been answered once.
func (p *prober) stop(t *testing.T) probe.Report {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Errorf("end the probe: %v", err)
	}
	err := p.cmd.Wait()
	var report probe.Report
	if jsonErr := json.Unmarshal(p.out.Bytes(), &report); jsonErr != nil {
		t.Errorf("the probe ended with %v, and printed no report: %q %q", err, p.out.String(), p.err.String())
		return report
	}
	if err != nil || !report.Clean() {
		t.Errorf("the client lost something: %s", p.err.String())
	}
	return report
}

// gap tells the client's longest one, for the log.
func gap(r probe.Report) string {
	return fmt.Sprintf("%d asked, %d answered, longest gap %.0f ms", r.Sent, r.Answered, r.LongestGapMs)
}

// background runs a script in the client's node, with the service's address as $0, until the end of the test, or of stop. What it says
// goes to a file of the folder.
func (w *world) background(t *testing.T, dir, script string, args ...string) (said string, stop func()) {
	t.Helper()
	said = filepath.Join(dir, "said")
	file, err := os.Create(said)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := w.alongside(t, append([]string{"lab", "exec", "--name", w.name, "client", "bash", "-c", script, address}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, file, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		if cmd.ProcessState == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return said, stop
}
