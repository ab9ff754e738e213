package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/godwit-project/godwit/bench/document"
)

// tablesAt is where the tables stand in the document.
func tablesAt() document.Place {
	return document.Place{Begin: "<!-- written by scripts/bench.sh -dvs: begin -->", End: "<!-- written by scripts/bench.sh -dvs: end -->"}
}

// conditions says on what it was measured.
func (b *bench) conditions() {
	if load := document.Others(runtime.NumCPU()); load > 0.2 {
		fmt.Fprintf(b.out, "**Preliminary**: the machine was busy with other things (%.1f of %d processors when the run began). Ratios hold better than times.\n\n", load, runtime.NumCPU())
	}
	fmt.Fprintf(b.out, "%s, %d processors, %s; %d rounds of %v each, medians.\n\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), runtime.Version(), b.rounds, b.during)
}
