package native

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// A program of a node that is protected when memory is short is not protected itself.
func TestAProgramIsNotProtectedAsItsNodeIs(t *testing.T) {
	own := "/proc/self/oom_score_adj"
	before, err := os.ReadFile(own)
	if err != nil {
		t.Skip(err)
	}
	if err := os.WriteFile(own, []byte("-500"), 0); err != nil {
		t.Skipf("a node that is protected takes root: %v", err)
	}
	defer func() { _ = os.WriteFile(own, before, 0) }()
	p, err := Run("/bin/sleep", []string{"60"}, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID())); err != nil || strings.TrimSpace(string(got)) != "0" {
		t.Errorf("its score is %s, %v", got, err)
	}
}
