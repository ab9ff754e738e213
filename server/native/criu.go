package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Errors that a user can do something about.
var (
	ErrRoot    = errors.New("moving a whole process takes root: run the node as root, or let the program move by its own Snapshot and Restore")
	ErrMissing = errors.New("there is no criu: install it (Debian 12's is too old for newer kernels, take that of the next release), or name one with $" + EnvCRIU)
	ErrCheck   = errors.New("criu does not work on this kernel: see 'criu check'; a newer criu may")
)

// EnvCRIU names a criu that is not on the path.
const EnvCRIU = "GODWIT_CRIU"

// checkTime bounds what criu may take to look at the kernel.
const checkTime = 20 * time.Second

// Find returns the path of a criu that works here: that of EnvCRIU, else the one on the path.
func Find(ctx context.Context, env func(string) string) (string, error) {
	if os.Geteuid() != 0 {
		return "", ErrRoot
	}
	name := env(EnvCRIU)
	if name == "" {
		name = "criu"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrMissing, err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if said, err := exec.CommandContext(ctx, path, "check").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w (%w: %s)", ErrCheck, err, lastLine(said))
	}
	return path, nil
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// Names of files beside CRIU's own in an image's directory.
const (
	dumpLog    = "dump.log"
	restoreLog = "restore.log"
)

// dumpArguments have criu write an image of a process and its children, and leave them stopped.
func dumpArguments(pid int, dir string, sockets []uint64) []string {
	words := []string{"dump", "-t", fmt.Sprint(pid), "-D", dir, "-o", dumpLog, "--leave-stopped", "--tcp-close", "--skip-in-flight"}
	for _, inode := range sockets {
		words = append(words, "--external", fmt.Sprintf("unix[%d]", inode))
	}
	return words
}

// inherited is a descriptor of criu's that takes the place of what an image had by that name.
type inherited struct {
	fd   int
	name string
}

// restoreArguments have criu make the processes of an image again, and leave them stopped.
func restoreArguments(dir, pidfile string, files []inherited) []string {
	words := []string{"restore", "-D", dir, "-o", restoreLog, "-d", "--leave-stopped", "--tcp-close", "--pidfile", pidfile}
	for _, f := range files {
		words = append(words, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", f.fd, f.name))
	}
	return words
}

// failure says why criu failed, from its log: the first error is the cause.
func failure(what string, err error, log []byte) error {
	var why []string
	for line := range strings.Lines(string(log)) {
		if _, text, is := strings.Cut(line, "Error "); is && len(why) < 3 && !strings.Contains(text, "rlimit:") { // it tries to raise its own, and gets on without
			why = append(why, strings.TrimSpace(text))
		}
	}
	if len(why) == 0 {
		why = []string{lastLine(log)}
	}
	return fmt.Errorf("criu %s: %w: %s", what, err, strings.Join(why, "; "))
}
