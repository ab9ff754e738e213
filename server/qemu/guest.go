package qemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/qemu/qmp"
)

// guest is what QEMU has told of the guest and of its migration, since the process started or was adopted.
type guest struct {
	runState  string // QEMU's RunState
	migration string // QEMU's MigrationStatus; "" if there was none
	events    int    // how many were heard
	stopped   time.Time
	resumed   time.Time
	asked     map[string]bool // events that we have asked for, by name
	ending    bool            // we are killing it
	halting   bool            // Quiesce is about to stop it, so it still runs rightly
	fault     string
	stalled   bool // stopped by QEMU, for a write that failed
}

// QEMU's RunStates and MigrationStatus that matter here.
const (
	runRunning     = "running"
	runPaused      = "paused"
	runInMigrate   = "inmigrate"
	runPostMigrate = "postmigrate"
	runFinish      = "finish-migrate"
	runIOError     = "io-error"

	migrationActive        = "active"
	migrationPreSwitchover = "pre-switchover"
	migrationDevice        = "device"
	migrationCompleted     = "completed"
	migrationFailed        = "failed"
	migrationCancelled     = "cancelled"
)

// state says it in the words of package server.
func (g *guest) state(r role) string {
	switch g.runState {
	case runRunning:
		return server.StateRunning
	case runPostMigrate:
		return server.StatePostmigrate
	case runInMigrate:
		return server.StateIncoming
	}
	if r == roleIncoming {
		if g.migration == migrationCompleted {
			return server.StateLoaded
		}
		return server.StateIncoming
	}
	return server.StatePaused
}

// ask makes the next event of that name one that nobody has to be told of.
func (g *guest) ask(event string) {
	if g.asked == nil {
		g.asked = make(map[string]bool)
	}
	g.asked[event] = true
}

// hear takes one event in. It says whether watchers should know.
func (g *guest) hear(e qmp.Event, r role) (tell bool) {
	g.events++
	asked := g.asked[e.Name]
	delete(g.asked, e.Name)
	switch e.Name {
	case "STOP":
		g.stopped = e.Time
		if g.runState == runRunning || g.runState == "" {
			g.runState = runPaused
		}
		return !asked
	case "RESUME":
		g.resumed, g.runState, g.fault, g.stalled = e.Time, runRunning, "", false
		return !asked
	case "MIGRATION":
		var data struct{ Status string }
		if json.Unmarshal(e.Data, &data) == nil {
			g.migrated(data.Status, r)
		}
	case "SHUTDOWN":
		var data struct{ Reason string }
		_ = json.Unmarshal(e.Data, &data)
		g.fault = "QEMU ends: " + data.Reason
	case "GUEST_PANICKED":
		g.fault = "the guest panicked"
		return true
	case "BLOCK_IO_ERROR":
		var data struct {
			Operation string
			Action    string
			Reason    string
			NodeName  string `json:"node-name"`
		}
		_ = json.Unmarshal(e.Data, &data)
		if data.Action != "stop" {
			return false // the guest has been told
		}
		g.fault, g.stalled = fmt.Sprintf("%s of %s failed: %s", data.Operation, data.NodeName, data.Reason), true
		return true
	}
	return false
}

func (g *guest) migrated(status string, r role) {
	g.migration = status
	switch {
	case r == roleActive && (status == migrationPreSwitchover || status == migrationDevice):
		g.runState = runFinish
	case r == roleActive && status == migrationCompleted:
		g.runState = runPostMigrate
	case r == roleIncoming && status == migrationCompleted:
		g.runState = runPaused
	}
}

// trimLines makes one line of several.
func trimLines(b []byte) []byte {
	return bytes.ReplaceAll(bytes.TrimSpace(b), []byte("\n"), []byte(" | "))
}
