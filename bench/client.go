package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/godwit-project/godwit/lab/probe"
)

const (
	// counterPort answers the probe, controlPort says what became of the guest's writes.
	counterPort = "7000"
	controlPort = "7001"

	// probeLead and probeTail are how long the probe runs alone before and after a move.
	probeLead = time.Second
	probeTail = 3 * time.Second
	// warmLoad for warmTime touches nearly every page that the guest's load uses, so that each move carries the same.
	warmLoad = "64MiB"
	warmTime = 5 * time.Second
	wantLoad = "2MiB"

	bootTimeout = 3 * time.Minute
	moveTimeout = 5 * time.Minute
)

// move is one migration from one site to the other. Times are milliseconds.
type move struct {
	to      string
	total   float64 // from asking for it to its end
	gap     float64 // the client's longest time without an answer
	gapLate float64 // how late the probe itself was in it
	arrived float64 // bytes that came to the destination's site meanwhile, as frames on its uplink
	outcome
}

// outcome is what the system that moves says of it.
type outcome struct {
	blackout float64 // ms
	counted  float64 // bytes over the WAN
	memory   float64 // bytes of them for memory, pages that changed meanwhile again
	disk     float64 // bytes of them for the disk, likewise
	phases   []phase // in their order
}

type phase struct {
	name   string
	length float64 // ms
}

// watch lets a client ask the guest every millisecond while carry moves it.
func (b *bed) watch(ctx context.Context, address, to string, carry func(context.Context) (outcome, error)) (m move, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, moveTimeout, fmt.Errorf("it takes longer than %v", moveTimeout))
	defer cancel()
	m.to = to
	conn, err := b.lab.Dial(ctx, "client", "tcp", net.JoinHostPort(address, counterPort))
	if err != nil {
		return m, fmt.Errorf("connect the probe: %w", err)
	}
	asking, stop := context.WithCancel(ctx)
	seen := make(chan probe.Report, 1)
	go func() { seen <- probe.Run(asking, conn, probe.Options{}) }()
	err = b.timed(ctx, &m, carry)
	stop()
	report := <-seen
	if err != nil {
		return m, err
	}
	if !report.Clean() {
		return m, fmt.Errorf("the client lost something: sent %d, answered %d, %d out of order, %d miscounted, %d malformed, %d resets, %s",
			report.Sent, report.Answered, report.OutOfOrder, report.Miscounted, report.Malformed, report.Resets, report.Error)
	}
	m.gap, m.gapLate = report.LongestGapMs, report.LongestGapLateMs
	b.say("  to %s: %.1f s, %.1f MB, blackout %.0f ms, the client's longest gap %.0f ms", to, m.total/1000, m.arrived/1e6, m.blackout, m.gap)
	return m, nil
}

// timed is the part that the probe watches.
func (b *bed) timed(ctx context.Context, m *move, carry func(context.Context) (outcome, error)) error {
	if err := sleep(ctx, probeLead); err != nil {
		return err
	}
	before, began, err := b.arrived(ctx, m.to)
	if err != nil {
		return err
	}
	if m.outcome, err = carry(ctx); err != nil {
		return err
	}
	after, ended, err := b.arrived(ctx, m.to)
	if err != nil {
		return err
	}
	m.arrived, m.total = float64(after-before), milliseconds(ended.Sub(began))
	return sleep(ctx, probeTail)
}

// warm waits until the guest answers, and has it touch the memory that its load will use.
func (b *bed) warm(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the guest did not answer within %v", bootTimeout))
	defer cancel()
	err := eventually(ctx, 250*time.Millisecond, func() (bool, error) {
		return b.ask(ctx, address, counterPort, "0", nil) == nil, nil
	})
	if err != nil {
		return err
	}
	if err := b.setLoad(ctx, address, warmLoad); err != nil {
		return err
	}
	if err := sleep(ctx, warmTime); err != nil {
		return err
	}
	return b.setLoad(ctx, address, wantLoad)
}

func (b *bed) setLoad(ctx context.Context, address, rate string) error {
	var answer struct{ Error string }
	if err := b.ask(ctx, address, controlPort, "set dirty="+rate, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("set the guest's load: %s", answer.Error)
	}
	return nil
}

// verify has the guest read back every acknowledged write.
func (b *bed) verify(ctx context.Context, address string) error {
	var found struct {
		Checked, Lost uint64
		IOErrors      uint64 `json:"io_errors"`
		FirstLost     string `json:"first_lost"`
		Error         string
	}
	if err := b.ask(ctx, address, controlPort, "verify", &found); err != nil {
		return fmt.Errorf("verify the guest's disk: %w", err)
	}
	if found.Error != "" || found.Lost > 0 || found.IOErrors > 0 || found.Checked == 0 {
		return fmt.Errorf("verify the guest's disk: of %d acknowledged writes %d are lost (%s), %d I/O errors %s",
			found.Checked, found.Lost, found.FirstLost, found.IOErrors, found.Error)
	}
	return nil
}

// ask sends one line to the guest from the client; the JSON that comes back goes into answer unless that is nil.
func (b *bed) ask(ctx context.Context, address, port, line string, answer any) (err error) {
	limit := time.Minute
	if answer == nil {
		limit = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := b.lab.Dial(ctx, "client", "tcp", net.JoinHostPort(address, port))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return fmt.Errorf("ask the guest for %q: %w", line, err)
	}
	text, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ask the guest for %q: %w", line, err)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("read the guest's answer %q: %w", text, err)
	}
	return nil
}
