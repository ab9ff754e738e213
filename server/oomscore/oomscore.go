// Package oomscore takes from programs what protects those that start them when memory is short.
//
// A node's agent is to be the last that the kernel kills for want of memory (OOMScoreAdjust= of its unit), since disks wait for it. Children inherit
// that: were they protected as well, the kernel would kill other people's programs for the memory that a guest takes, or find nothing to kill.
package oomscore

import (
	"fmt"
	"os"
	"strings"
)

// Expose makes a program that the caller has started, and that is protected, as likely to be killed as any other. One that somebody has made
// likelier stays so, and one that has ended is left alone.
func Expose(pid int) { expose(fmt.Sprintf("/proc/%d/oom_score_adj", pid)) }

func expose(file string) {
	if b, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(b), "-") {
		_ = os.WriteFile(file, []byte("0"), 0) // to raise it takes no right
	}
}
