package demo

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/lab/probe"
)

func TestTheDetourIsTheWayThroughBothEdges(t *testing.T) {
	straight := strings.Fields("client core west-edge west-host")
	through := strings.Fields("client core west-edge core east-edge east-host")
	after := strings.Fields("client core east-edge east-host")
	back := strings.Fields("client core east-edge core west-edge west-host")
	for name, test := range map[string]struct {
		paths [][]string
		want  []string
	}{
		"seen":              {[][]string{straight, through, after}, through},
		"never seen":        {[][]string{straight, after}, []string{}},
		"the wrong way":     {[][]string{back}, []string{}},
		"broken off":        {[][]string{through[:5]}, []string{}},
		"nothing was found": {nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := detour(test.paths); got == nil || !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func goodProbe() probe.Report {
	return probe.Report{Sent: 9000, Answered: 9000, LongestGapMs: 31, LastAcked: 400}
}

func goodVerdict() verdict { return verdict{Acknowledged: 410, Checked: 410} }

func volumes(pairs ...string) []*godwitv1.Object {
	var out []*godwitv1.Object
	for _, pair := range pairs {
		site, role, _ := strings.Cut(pair, " ")
		out = append(out, &godwitv1.Object{Kind: &godwitv1.Object_Volume{Volume: &godwitv1.Volume{Name: "demo.data", Service: service, Site: site, Role: role}}})
	}
	return out
}

func TestEveryLossIsAFault(t *testing.T) {
	for name, test := range map[string]struct {
		probe   func(*probe.Report)
		verdict func(*verdict)
		volumes []*godwitv1.Object
		want    string
	}{
		"OK":                  {want: ""},
		"an unanswered one":   {probe: func(r *probe.Report) { r.Answered-- }, want: "1 requests were not answered"},
		"a reset":             {probe: func(r *probe.Report) { r.Resets = 1 }, want: "1 connections were reset"},
		"disorder":            {probe: func(r *probe.Report) { r.OutOfOrder = 2 }, want: "2 answers came out of order"},
		"a broken connection": {probe: func(r *probe.Report) { r.Error = "EOF" }, want: "the client's connection broke: EOF"},
		"silence":             {probe: func(r *probe.Report) { *r = probe.Report{} }, want: "the client got no answer at all"},
		"a lost write":        {verdict: func(v *verdict) { v.Lost, v.FirstLost = 1, "block 7" }, want: "1 acknowledged writes are lost: block 7"},
		"a forgotten write":   {verdict: func(v *verdict) { v.Acknowledged = 399 }, want: "the guest knows of 399 acknowledged writes, the client was told of 400"},
		"an I/O error":        {verdict: func(v *verdict) { v.IOErrors = 1 }, want: "1 writes or reads of the guest failed"},
		"no write":            {verdict: func(v *verdict) { v.Checked = 0 }, want: "there was no write to verify"},
		"a volume left":       {volumes: volumes("east primary", "west fenced"), want: "west still has volume demo.data (fenced)"},
		"two primaries":       {volumes: volumes("east primary", "east primary"), want: "there are 2 primary volumes at east, not one"},
		"no volume":           {volumes: volumes("north primary replica"), want: "volume demo.data at north is primary replica"},
	} {
		t.Run(name, func(t *testing.T) {
			seen, found, objects := goodProbe(), goodVerdict(), test.volumes
			if test.probe != nil {
				test.probe(&seen)
			}
			if test.verdict != nil {
				test.verdict(&found)
			}
			if objects == nil {
				objects = volumes("east primary")
			}
			report := newReport(&godwitv1.Migration{Phase: "completed"})
			report.addProbe(seen)
			report.addVerdict(found)
			report.checkVolumes(objects)
			if test.want == "" {
				if report.err() != nil {
					t.Errorf("faults: %v", report.Faults)
				}
				return
			}
			if !errors.Is(report.err(), ErrLoss) || !slices.Contains(report.Faults, test.want) {
				t.Errorf("faults %q, want %q among them", report.Faults, test.want)
			}
		})
	}
}

func TestTheReportHasTheKeysOfTheContract(t *testing.T) {
	text, err := json.Marshal(newReport(&godwitv1.Migration{}))
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"phase", "blackoutMs", "totalMs", "clientLongestGapMs", "requestsSent", "requestsAnswered", "tcpResets", "writesAcknowledged",
		"writesLost", "wanBytes", "pathBefore", "pathDuring", "pathAfter", "phases", "faults",
	} {
		if value, there := fields[key]; !there || value == nil {
			t.Errorf("%s is %v", key, value)
		}
	}
}

func TestAMissingGuestIsSaidBeforeAnythingIsBuilt(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vmlinuz"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Planned(context.Background(), Options{GuestDir: dir})
	if !errors.Is(err, ErrNoGuest) || !strings.Contains(err.Error(), "initrd.gz") || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfEachLogIsKeptAndNoKey(t *testing.T) {
	from := t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	long := strings.Repeat("x", maxLog) + "the end"
	for name, text := range map[string]string{"logs/agent.log": "said", "host/vm/qemu.log": long, "ca.key": "secret"} {
		path := filepath.Join(from, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := keepLogs(from)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(kept)
	if err != nil || len(entries) != 2 {
		t.Fatalf("kept %v, %v", entries, err)
	}
	end, err := os.ReadFile(filepath.Join(kept, "host_vm_qemu.log"))
	if err != nil || len(end) != maxLog || !strings.HasSuffix(string(end), "the end") {
		t.Errorf("%d bytes of the long log are kept, %v", len(end), err)
	}
}
