package controller

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/cluster"
)

// TestAControllerThatCannotBeginEnds: what it had begun with already ends with it.
func TestAControllerThatCannotBeginEnds(t *testing.T) {
	dir := t.TempDir()
	if err := Init(dir, "test"); err != nil {
		t.Fatal(err)
	}
	store, err := cluster.Open(t.Context(), cluster.Options{Dir: filepath.Join(dir, storeDir), Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		agentPrefix + "host-a": `{"name":"host-a","kind":"host","site":"a","address":"192.0.2.1:7000"}`,
		agentPrefix + "edge-a": `{"name":"edge-a","kind":"edge","site":"a","address":"192.0.2.2:7000"}`,
		cluster.OwnerKey("a"):  `{"service":"a","site":"a","host":"host-a","epoch":1}`,
		servicePrefix + "a":    `{"spec":{"name":"a","site":"a"},"phase":"starting"}`, // is waited for: its agent is down
		servicePrefix + "b":    `{"spec":{"name":7},"phase":"running"}`,
	} {
		if _, err := store.Put(t.Context(), key, []byte(value), cluster.Absent); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Options{Dir: dir, Socket: filepath.Join(dir, "socket"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	}()
	late := time.AfterFunc(soon, cancel)
	err = <-ended
	if !late.Stop() {
		t.Error("it did not end by itself")
	}
	if err == nil || !strings.Contains(err.Error(), "read stored service") {
		t.Errorf("it ends with %v", err)
	}
}
