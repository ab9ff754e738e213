package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// Line 28 of the DVS's list: the commands show the processes, endpoints, links and counters that a node knows.
func TestLine28TheCommandsShowWhatANodeKnows(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "dvs")
	d := startDVSNode(t, socket, "--name", "a", "--cache", t.TempDir(), "--listen", "127.0.0.1:0", "--peer", "b=127.0.0.1:1")
	s, err := dvs.Connect(t.Context(), socket, dvs.Options{Container: "shop", Program: "stock"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if _, err := s.Bind(t.Context(), "kv", dvs.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	var endpoints items[dvshost.EndpointInfo]
	if err := json.Unmarshal([]byte(d.want("shop", "endpoints", "-o", "json")), &endpoints); err != nil || len(endpoints.Items) != 1 {
		t.Fatal(endpoints, err)
	}
	if e := endpoints.Items[0]; e.Container != "shop" || e.Name != "kv" || e.Node != "a" || e.State != "active" || e.Program != "stock" || e.PID != os.Getpid() {
		t.Errorf("%+v", e)
	}
	d.want("stock", "endpoints")
	d.want("FAILURES", "ps")
	d.want("b", "links") // which is down
	var stats dvshost.StatsInfo
	if err := json.Unmarshal([]byte(d.want("packetsOut", "stats", "-o", "json")), &stats); err != nil || stats.Node != "a" || stats.Endpoints != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}
