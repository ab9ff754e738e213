package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
)

// farShellCommand makes this program what ssh is to rsync: the other arguments are the socket of a line whose far end is a shell,
// the name of a host, which is of no interest, and a command that is carried out there.
const farShellCommand = "far-shell"

// serveFarShell is the near end: it sends the command, then its input, and gives out what comes back.
func serveFarShell(args []string, in io.Reader, out io.Writer) error {
	if len(args) < 3 {
		return errors.New("far-shell: want a socket, a host and a command")
	}
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(args[2:]); err != nil {
		return err
	}
	go func() { _, _ = io.Copy(conn, in) }() // ends with the process, if not before
	_, err = io.Copy(out, conn)
	return err
}

// carryOut is the far end: it takes a command from the connection, and is done when that is.
func carryOut(conn io.ReadWriteCloser) error {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	var command []string
	if err := json.Unmarshal(line, &command); err != nil || len(command) == 0 {
		return errors.Join(errors.New("far-shell: no command came"), err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = conn, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { // ends when the connection does
		_, _ = io.Copy(in, r)
		_ = in.Close()
	}()
	return cmd.Wait()
}
