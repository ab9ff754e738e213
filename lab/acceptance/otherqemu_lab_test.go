//go:build lab

package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
)

// The other QEMU's words come in the environment.
const (
	otherMachine = "GODWIT_OTHER_MACHINE"
	otherCPU     = "GODWIT_OTHER_CPU"
)

// playQEMU is a QEMU of another version: it runs the tiny machine with which accelerators are tried, and names its machine
// types and CPU models when it is asked. More it cannot do; no service gets as far as being started on it.
func playQEMU() int {
	if err := os.WriteFile("said", []byte("G"), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	listener, err := net.Listen("unix", "qmp.sock")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		answerQMP(conn)
	}
}

func answerQMP(conn net.Conn) {
	defer conn.Close()
	version := map[string]any{"qemu": map[string]int{"major": 9, "minor": 9, "micro": 0}, "package": ""}
	answers := map[string]any{
		"query-version":         version,
		"query-machines":        []map[string]string{{"name": os.Getenv(otherMachine)}},
		"query-cpu-definitions": []map[string]any{{"name": os.Getenv(otherCPU), "unavailable-features": []string{}}},
		"query-migrate-capabilities": []map[string]any{
			{"capability": "events"}, {"capability": "pause-before-switchover"}, {"capability": "late-block-activate"}, {"capability": "dirty-bitmaps"},
		},
	}
	out := json.NewEncoder(conn)
	if out.Encode(map[string]any{"QMP": map[string]any{"version": version, "capabilities": []string{}}}) != nil {
		return
	}
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var command struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id,omitempty"`
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return
		}
		answer := map[string]any{"return": map[string]any{}}
		if known, ok := answers[command.Execute]; ok {
			answer["return"] = known
		}
		if command.ID != nil {
			answer["id"] = command.ID
		}
		if out.Encode(answer) != nil {
			return
		}
		if command.Execute == "quit" {
			os.Exit(0)
		}
	}
}
