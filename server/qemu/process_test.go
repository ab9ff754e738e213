package qemu

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// An agent that is protected when memory is short does not protect its guests.
func TestAMachineIsNotProtectedAsItsAgentIs(t *testing.T) {
	own := "/proc/self/oom_score_adj"
	before, err := os.ReadFile(own)
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(own, []byte("-900"), 0); err != nil {
		t.Skipf("to be protected takes CAP_SYS_RESOURCE: %v", err)
	}
	t.Cleanup(func() { _ = os.WriteFile(own, before, 0) })
	p, err := spawn("/bin/sleep", t.TempDir(), []string{"60"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.watch(t.Context())
	}()
	t.Cleanup(func() { <-ended })
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid)); err != nil || strings.TrimSpace(string(got)) != "0" {
		t.Errorf("its score is %s, %v", got, err)
	}
	if err := p.kill(); err != nil {
		t.Error(err)
	}
	<-p.gone
}
