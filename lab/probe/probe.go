package probe

import (
	"context"
	"net"
	"time"
)

// Options of a probe. Zero fields take the defaults.
type Options struct {
	// Duration is how long to ask; 0 until the context ends.
	Duration time.Duration
	// Interval between two requests; 1 ms by default.
	Interval time.Duration
	// Drain is how long to wait for outstanding replies at the end; 15 s by default.
	Drain time.Duration
	// Progress, if set, is called about once a second with the report so far, without lists.
	Progress func(Report)
}

// Run asks over conn until the duration has passed or ctx ends, waits for what is outstanding, and reports. It closes
// conn. Ending by ctx is the normal way to stop and no error.
func Run(ctx context.Context, conn net.Conn, opts Options) Report { return Report{} }
