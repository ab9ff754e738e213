package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/godwit-project/godwit/storage"
)

// scrape reads the figures as Prometheus does.
func (e *end) scrape() string {
	e.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(e.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- answerFigures(ctx, l, figures{store: e.store, external: e.external}) }()
	res, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		e.t.Fatal(res.Status, err)
	}
	cancel()
	if err := <-ended; err != nil {
		e.t.Error(err)
	}
	return string(text)
}

// guest does with a volume what a guest would, over NBD; nothing of that may fail.
func (e *end) guest(volume string, commands ...string) {
	e.t.Helper()
	program, err := exec.LookPath("qemu-io")
	if err != nil {
		e.t.Skip("a client is needed: ", err)
	}
	v, err := e.store.Volume(volume)
	if err != nil {
		e.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "guest-*") // the path of a socket is short by law
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	if err := v.Serve(socket); err != nil {
		e.t.Fatal(err)
	}
	argv := []string{"-f", "raw"}
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), soon)
	defer cancel()
	if out, err := exec.CommandContext(ctx, program, append(argv, "nbd+unix:///?socket="+socket)...).CombinedOutput(); err != nil {
		e.t.Fatalf("qemu-io: %v: %s", err, out)
	}
}

func TestTheFiguresSayWhatClientsDidAndHowFarTheReplicaIs(t *testing.T) {
	p := newPair(t)
	p.fill(random(1 << 20))
	p.protected(p.here, p.there, 5)
	p.here.guest("shop.root", "write 0 64k", "write 64k 4k", "read 0 128k", "flush")
	text := p.here.scrape()
	for _, want := range []string{
		`godwit_agent_volume_requests_total{kind="write",volume="shop.root"} 2`,
		`godwit_agent_volume_request_bytes_total{kind="write",volume="shop.root"} 69632`,
		`godwit_agent_volume_request_bytes_total{kind="read",volume="shop.root"} 131072`,
		`godwit_agent_volume_request_errors_total{kind="write",volume="shop.root"} 0`,
		`godwit_agent_volume_request_seconds_count{kind="write",volume="shop.root"} 2`,
		`godwit_agent_volume_size_bytes{role="primary",volume="shop.log"} 8.388608e+06`,
		`godwit_agent_replication_connected{service="shop"} 1`,
		`godwit_agent_replication_in_mode{mode="sync",service="shop"} 1`,
		`godwit_agent_replication_lag_bytes{service="shop"} 0`,
		`godwit_agent_replication_repaired_bytes_total{service="shop"} 0`,
		`godwit_agent_replication_lost_bytes{service="shop"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the figures lack %s", want)
		}
	}
	if sent := regexp.MustCompile(`godwit_agent_replication_sent_bytes_total\{service="shop"\} (\S+)`).FindStringSubmatch(text); sent == nil || sent[1] == "0" {
		t.Errorf("nothing was sent: %v", sent)
	}
	if text := p.there.scrape(); !strings.Contains(text, `godwit_agent_standby_complete{service="shop"} 1`) {
		t.Errorf("the standby's figures: %s", text)
	}
}

// oneGroup collects the figures of one replication.
type oneGroup storage.GroupStatus

func (oneGroup) Describe(ch chan<- *prometheus.Desc)   { figures{}.Describe(ch) }
func (g oneGroup) Collect(ch chan<- prometheus.Metric) { collectGroup(ch, storage.GroupStatus(g)) }

func TestTheFiguresSayWhatIsLost(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(oneGroup{Name: "shop", Lost: 8192, Repaired: 4096})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
	}
	if got["godwit_agent_replication_lost_bytes"] != 8192 || got["godwit_agent_replication_repaired_bytes_total"] != 4096 {
		t.Errorf("figures: %v", got)
	}
}

// Every figure is in the list that operators read, and the list names no other.
func TestTheFiguresAreListed(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	agents, _, _ := strings.Cut(string(text), "## The controller")
	listed := regexp.MustCompile("`(godwit_agent_[a-z_]+)`").FindAllStringSubmatch(agents, -1)
	descs := make(chan *prometheus.Desc, 100)
	figures{}.Describe(descs)
	close(descs)
	var have []string
	for d := range descs {
		have = append(have, regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1])
	}
	for _, name := range have {
		if !slices.ContainsFunc(listed, func(l []string) bool { return l[1] == name }) {
			t.Errorf("%s is not listed", name)
		}
	}
	for _, l := range listed {
		if !slices.Contains(have, l[1]) {
			t.Errorf("%s is listed, and does not exist", l[1])
		}
	}
}
