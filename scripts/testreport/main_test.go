package main

import (
	"strings"
	"testing"
)

// recorded is what go test -json prints of a package with a passing, a failing and a skipped test, and of one that does not build.
const recorded = `{"Action":"start","Package":"m/a"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    a_test.go:3: chatter\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":21.5}
{"Action":"output","Package":"m/a","Test":"TestBad","Output":"    a_test.go:9: want 1, got 2\n"}
{"Action":"fail","Package":"m/a","Test":"TestBad","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"=== RUN   TestRoot\n"}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"    a_test.go:12: this needs root: run it with sudo\n"}
{"Action":"output","Package":"m/a","Test":"TestRoot","Output":"--- SKIP: TestRoot (0.00s)\n"}
{"Action":"skip","Package":"m/a","Test":"TestRoot","Elapsed":0}
{"Action":"output","Package":"m/a","Output":"FAIL\n"}
{"Action":"fail","Package":"m/a","Elapsed":0.2}
{"ImportPath":"m/b","Action":"build-output","Output":"b.go:1: syntax error\n"}
{"ImportPath":"m/b","Action":"build-fail"}
{"Action":"skip","Package":"m/c","Elapsed":0}
`

func TestReportShowsFailuresAndWhatWasSkippedAndWhy(t *testing.T) {
	var out strings.Builder
	failed, err := report(strings.NewReader(recorded), &out)
	if !failed || err != nil {
		t.Errorf("failed is %v, error %v", failed, err)
	}
	for _, want := range []string{
		"want 1, got 2", "fail m/a ", "b.go:1: syntax error", "1 took long:\n    21.5s m/a TestGood\n", "1 skipped:\n  m/a TestRoot: this needs root: run it with sudo\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	for _, unwanted := range []string{"chatter", "m/c"} {
		if strings.Contains(out.String(), unwanted) {
			t.Errorf("the report has %q", unwanted)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

func TestReportOfPassingTestsIsALineAPackage(t *testing.T) {
	var out strings.Builder
	failed, err := report(strings.NewReader(`{"Action":"pass","Package":"m/a","Elapsed":1.25}`), &out)
	if failed || err != nil || strings.Count(out.String(), "\n") != 1 || !strings.HasPrefix(out.String(), "pass m/a ") {
		t.Errorf("failed is %v, error %v, report %q", failed, err, out.String())
	}
}
