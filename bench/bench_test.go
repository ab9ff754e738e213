package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantilesLieBetweenTheirNeighbours(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{7}, 0.5, 7},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{1, 2, 3}, 1, 3},
		{[]float64{0, 100}, 0.99, 99},
	} {
		if got := quantile(test.values, test.q); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", test.values, test.q, got, test.want)
		}
	}
	if !math.IsNaN(quantile(nil, 0.5)) {
		t.Error("the median of nothing is a number")
	}
}

func TestTheLineIsHeldAgainstTheAim(t *testing.T) {
	l := askedLines[0]
	for _, test := range []struct {
		idle, loaded, there, back float64
		want                      string
	}{
		{20.9, 19.2, 95.1, 104.9, "yes"},
		{21.1, 20, 100, 100, "no: idle delay"},
		{20, 22, 94, 100, "no: delay under load, rate west → east"},
	} {
		if got := l.verdict(test.idle, test.loaded, test.there, test.back); got != test.want {
			t.Errorf("verdict(%v) = %q, want %q", test, got, test.want)
		}
	}
}

func TestTheTablesHoldMediansAndRatios(t *testing.T) {
	r := &results{conditions: conditions{cpus: 2, load: 1.5}}
	for _, total := range []float64{9000, 10000, 11000} {
		r.ours = append(r.ours, move{to: east, total: total, gap: 40, outcome: outcome{phases: []phase{{"converging", total - 500}}}})
		r.bare = append(r.bare, move{to: west, total: 2 * total, gap: 400})
	}
	text := r.markdown()
	for _, want := range []string{
		"**Preliminary**", "| total time | 10.00 s (9.00–11.00) | 20.00 s (18.00–22.00) | 0.50 |", "| phase: converging | 9500 ms (8500–10500) | – |",
		"| the client's longest gap | 40 ms (40–40) | 400 ms (400–400) | 0.10 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestNeighboursShareANetwork(t *testing.T) {
	edge := []netip.Prefix{netip.MustParsePrefix("198.51.100.1/28"), netip.MustParsePrefix("192.0.2.2/30")}
	core := []netip.Prefix{netip.MustParsePrefix("192.0.2.9/30"), netip.MustParsePrefix("192.0.2.1/30")}
	a, b, ok := neighbours(edge, core)
	if !ok || a.String() != "192.0.2.2" || b.String() != "192.0.2.1" {
		t.Errorf("got %v, %v, %v", a, b, ok)
	}
	if _, _, ok := neighbours(edge[:1], core); ok {
		t.Error("strangers are called neighbours")
	}
}

func TestBadCommandLinesAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-n", "0"}, {"-n", "x"}, {"extra"}, {"-unknown"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

// fakeQEMU answers commands with the lines of a script, by their names.
func fakeQEMU(t *testing.T, script map[string][]string) *qmp {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
		for in := json.NewDecoder(conn); ; {
			var request struct{ Execute string }
			if in.Decode(&request) != nil || request.Execute == "quit" {
				return
			}
			for _, line := range append(script[request.Execute], `{"return": {}}`) {
				fmt.Fprintln(conn, line)
			}
		}
	}()
	q, err := openQMP(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		q.close()
		listener.Close()
		<-served
	})
	return q
}

func TestEventsAreFoundWheneverTheyCame(t *testing.T) {
	q := fakeQEMU(t, map[string][]string{
		"migrate": {
			`{"timestamp": {"seconds": 1, "microseconds": 500000}, "event": "MIGRATION", "data": {"status": "completed"}}`,
			`{"timestamp": {"seconds": 2, "microseconds": 0}, "event": "STOP"}`,
		},
		"fail": {
			`{"timestamp": {"seconds": 3, "microseconds": 0}, "event": "MIGRATION", "data": {"status": "failed"}}`,
			`{"timestamp": {"seconds": 3, "microseconds": 0}, "event": "BLOCK_JOB_COMPLETED", "data": {"device": "mirror", "error": "No space left"}}`,
		},
	})
	if err := q.call(t.Context(), "migrate", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.awaitMigration(t.Context(), 0, "completed"); err != nil {
		t.Error(err)
	}
	if e, err := q.awaitEvent(t.Context(), 0, "STOP"); err != nil || e.at.UnixMilli() != 2000 {
		t.Errorf("%v, %v", e, err)
	}
	mark := q.mark()
	if err := q.call(t.Context(), "fail", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := q.awaitMigration(t.Context(), mark, "completed"); err == nil {
		t.Error("a failed migration was waited for, or an earlier one taken for it")
	}
	if err := q.awaitJob(t.Context(), mark, "BLOCK_JOB_COMPLETED", "mirror"); err == nil || !strings.Contains(err.Error(), "No space left") {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.awaitEvent(ended, q.mark(), "RESUME"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfQEMUEndsEveryWait(t *testing.T) {
	q := fakeQEMU(t, nil)
	if err := q.call(t.Context(), "quit", nil, nil); !errors.Is(err, errQMPEnded) {
		t.Errorf("got %v", err)
	}
	if _, err := q.awaitEvent(t.Context(), 0, "STOP"); !errors.Is(err, errQMPEnded) {
		t.Errorf("got %v", err)
	}
}

func TestRatesAreTakenOutOfWhatFioSays(t *testing.T) {
	const said = "note: something\n{\n \"jobs\" : [{\"error\" : 0, \"usr_cpu\": 10.0, \"sys_cpu\": 15.0, \"read\" : {\"iops\" : 10.5}, \"write\" : {\"iops\" : 2, " +
		"\"clat_ns\" : {\"percentile\" : {\"50.000000\" : 3000}}}}]\n}\n"
	if got, err := loadIn([]byte(said)); err != nil || got.rate != 12.5 || got.median != 3*time.Microsecond || got.client != 20*time.Millisecond {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "{", "{\"jobs\": []}", "{\"jobs\": [{\"error\": 5}]}"} {
		if _, err := loadIn([]byte(bad)); err == nil {
			t.Errorf("%q gave a rate", bad)
		}
	}
}
