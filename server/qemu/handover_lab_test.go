//go:build lab

package qemu

import (
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAHandoverOverAThrottledLinkCompletes(t *testing.T) {
	for name, l := range map[string]load{"idle": idle, "busy": busy} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t, l)
			p.boot()
			p.goesOn(0)
			w := wan(t)
			dial, accepted := p.prepared(1, w)
			begun := time.Now()
			var last server.Progress
			check(t, p.from.Converge(t.Context(), "shop", 1, dial, func(x server.Progress) { last = x }))
			t.Logf("converged in %v: %+v", time.Since(begun), last)
			if s := p.state(0); s != server.StateRunning {
				t.Fatalf("held, the source is %s", s)
			}
			p.goesOn(0)
			p.goesOn(0)
			check(t, p.from.Converge(t.Context(), "shop", 1, dial, func(x server.Progress) { last = x }))
			t.Logf("caught up: %+v", last)
			before := w.sent.Load()
			check(t, p.from.Quiesce(t.Context(), "shop", 1, nil))
			check(t, p.to.Loaded(t.Context(), "shop", 1))
			check(t, <-accepted)
			if a, b := p.state(0), p.state(1); a != server.StatePostmigrate || b != server.StateLoaded {
				t.Fatalf("before the commit: source %s, destination %s", a, b)
			}
			check(t, p.to.Activate(t.Context(), "shop", 1))
			a, _ := p.from.Status(t.Context(), "shop")
			b, _ := p.to.Status(t.Context(), "shop")
			t.Logf("BLACKOUT %v, %d KiB after the stop, %d KiB in all", b.ResumedAt.Sub(a.StoppedAt), (w.sent.Load()-before)>>10, w.sent.Load()>>10)
			p.goesOn(1)
			check(t, p.to.Activate(t.Context(), "shop", 1))
			if err := p.to.DropIncoming(t.Context(), "shop", 1); !errors.Is(err, server.ErrActivated) {
				t.Fatalf("dropping an activated machine: %v", err)
			}
			check(t, p.from.Destroy(t.Context(), "shop"))
			if s := p.state(0); s != server.StateAbsent {
				t.Fatalf("destroyed, the source is %s", s)
			}
		})
	}
}

func TestAGuestThatOutrunsTheLinkIsRefusedWithFigures(t *testing.T) {
	p := newPlace(t, fierce)
	p.from.o.StallPasses = 2
	p.boot()
	dial, _ := p.prepared(1, newLink(t, 60e6, 0))
	err := p.from.Converge(t.Context(), "shop", 1, dial, nil)
	if !errors.Is(err, server.ErrNotConverging) || !strings.Contains(err.Error(), "MB/s") {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	p.goesOn(0)
	check(t, p.from.Rollback(t.Context(), "shop", 1))
}

// A step brings a handover further; rolling back works after each, with and without a new agent in between.
func TestRollbackWorksAfterEveryStep(t *testing.T) {
	steps := []string{"prepared", "converged", "broken", "quiesced", "loaded", "destination killed"}
	for _, restarted := range []string{"", "source", "destination"} {
		p := newPlace(t, idle)
		p.boot()
		for i, last := range steps {
			epoch := uint64(i + 1)
			w := newLink(t, 100e6, 0)
			dial, _ := p.prepared(epoch, w)
			func() {
				if last == "prepared" {
					return
				}
				check(t, p.from.Converge(t.Context(), "shop", epoch, dial, nil))
				switch last {
				case "converged":
					return
				case "broken":
					w.cut()
					if err := p.from.Quiesce(t.Context(), "shop", epoch, nil); err == nil {
						t.Fatal("quiesced without a link")
					}
					return
				}
				check(t, p.from.Quiesce(t.Context(), "shop", epoch, nil))
				if last == "quiesced" {
					return
				}
				check(t, p.to.Loaded(t.Context(), "shop", epoch))
				if last == "destination killed" {
					s, _ := p.to.Status(t.Context(), "shop")
					check(t, syscall.Kill(s.PID, syscall.SIGKILL))
					until(t, func() bool { return p.state(1) == server.StateDead })
				}
			}()
			switch restarted {
			case "source":
				p.restart(0)
			case "destination":
				p.restart(1)
			}
			if s := p.state(0); (last == "quiesced" || last == "loaded") && s != server.StatePostmigrate {
				t.Fatalf("%s, %s restarted: source %s", last, restarted, s)
			}
			check(t, p.to.DropIncoming(t.Context(), "shop", epoch))
			check(t, p.from.Rollback(t.Context(), "shop", epoch))
			check(t, p.from.Rollback(t.Context(), "shop", epoch))
			check(t, p.to.DropIncoming(t.Context(), "shop", epoch))
			p.goesOn(0)
			if s := p.state(1); s != server.StateAbsent {
				t.Fatalf("%s, %s restarted: destination %s", last, restarted, s)
			}
		}
		if err := p.from.Quiesce(t.Context(), "shop", 1, nil); !errors.Is(err, server.ErrOldEpoch) {
			t.Fatalf("an old epoch: %v", err)
		}
		// After all that it can still move.
		dial, _ := p.prepared(100, newLink(t, 100e6, 0))
		check(t, p.from.Converge(t.Context(), "shop", 100, dial, nil))
		check(t, p.from.Quiesce(t.Context(), "shop", 100, nil))
		check(t, p.to.Loaded(t.Context(), "shop", 100))
		p.restart(1)
		check(t, p.to.Loaded(t.Context(), "shop", 100))
		check(t, p.to.Activate(t.Context(), "shop", 100))
		p.goesOn(1)
		check(t, p.from.Destroy(t.Context(), "shop"))
		// And home again.
		p.from, p.to = p.to, p.from
		p.dirs[0], p.dirs[1] = p.dirs[1], p.dirs[0]
		dial, _ = p.prepared(101, newLink(t, 100e6, 0))
		check(t, p.from.Converge(t.Context(), "shop", 101, dial, nil))
		check(t, p.from.Quiesce(t.Context(), "shop", 101, nil))
		check(t, p.to.Loaded(t.Context(), "shop", 101))
		check(t, p.to.Activate(t.Context(), "shop", 101))
		p.goesOn(1)
	}
}

// QEMU resumes a source by itself when the stream breaks late and QEMU was the one who had stopped it. Having stopped it
// ourselves, it stays stopped wherever the link breaks, until Rollback.
func TestALinkThatBreaksDuringQuiesceLeavesTheSourceStopped(t *testing.T) {
	p := newPlace(t, idle)
	p.boot()
	for i, after := range []int64{1, 20 << 10, 50 << 10, 80 << 10, 100 << 10, 120 << 10} {
		epoch := uint64(i + 1)
		w := newLink(t, 1e6, 0)
		dial, accepted := p.prepared(epoch, w)
		check(t, p.from.Converge(t.Context(), "shop", epoch, dial, nil))
		before := w.sent.Load()
		quiesced := make(chan error, 1)
		go func() { quiesced <- p.from.Quiesce(t.Context(), "shop", epoch, nil) }()
		until(t, func() bool { return w.sent.Load()-before >= after || len(quiesced) > 0 })
		w.cut()
		err := <-quiesced
		t.Logf("cut after %d KiB: %v", (w.sent.Load()-before)>>10, err)
		<-accepted
		for range 20 {
			if s := p.state(0); s == server.StateRunning {
				t.Fatalf("cut after %d bytes, the source runs", after)
			}
			time.Sleep(10 * time.Millisecond) // it must stay so: there is nothing to wait for
		}
		check(t, p.to.DropIncoming(t.Context(), "shop", epoch))
		check(t, p.from.Rollback(t.Context(), "shop", epoch))
		p.goesOn(0)
	}
}

// Whatever makes it run, here a command behind the platform's back: it is told, and stopped again.
func TestAGuestThatResumesUnaskedIsStoppedAgain(t *testing.T) {
	p := newPlace(t, idle)
	p.boot()
	dial, _ := p.prepared(1, newLink(t, 100e6, 0))
	check(t, p.from.Converge(t.Context(), "shop", 1, dial, nil))
	check(t, p.from.Quiesce(t.Context(), "shop", 1, nil))
	check(t, p.from.machine("shop").call(t.Context(), "cont", nil, nil)) // behind the platform's back
	told := false
	until(t, func() bool {
		select {
		case s := <-p.events:
			told = told || s.Name == "shop" && s.State == server.StateRunning
		default:
		}
		return told && p.state(0) != server.StateRunning
	})
}

func TestStepsMayBeRepeatedAndADeadMachineIsTold(t *testing.T) {
	p := newPlace(t, idle)
	p.boot()
	check(t, p.from.Start(t.Context(), p.spec))
	s, _ := p.from.Status(t.Context(), "shop")
	p.restart(0)
	if again, _ := p.from.Status(t.Context(), "shop"); again.PID != s.PID || again.State != server.StateRunning {
		t.Fatalf("adopted %+v, was %+v", again, s)
	}
	check(t, p.to.PrepareIncoming(t.Context(), p.spec, 1))
	waiting, _ := p.to.Status(t.Context(), "shop")
	p.restart(1)
	check(t, p.to.PrepareIncoming(t.Context(), p.spec, 1))
	if again, _ := p.to.Status(t.Context(), "shop"); again.PID != waiting.PID || again.State != server.StateIncoming {
		t.Fatalf("adopted %+v, was %+v", again, waiting)
	}
	if err := p.to.Activate(t.Context(), "shop", 1); err == nil {
		t.Fatal("activated an empty machine")
	}
	if err := p.to.Rollback(t.Context(), "shop", 1); err == nil {
		t.Fatal("rolled back, that is: ran, a waiting machine")
	}
	if err := p.to.Start(t.Context(), p.spec); err == nil {
		t.Fatal("started a waiting machine")
	}
	check(t, syscall.Kill(s.PID, syscall.SIGKILL))
	until(t, func() bool {
		select {
		case x := <-p.events:
			return x.State == server.StateDead && x.PID == 0
		default:
			return false
		}
	})
	check(t, p.from.Start(t.Context(), p.spec))
	p.goesOn(0)
}

// A QEMU without the ballast's driver stops an idle guest by itself; the handover goes on from there, and back.
func TestWithoutBallastAnEarlyStopIsGoneOnFrom(t *testing.T) {
	p := newPlace(t, idle)
	for _, q := range []*Platform{p.from, p.to} {
		f, err := q.probe(t.Context())
		check(t, err)
		f.Ballast = false
		data, err := json.Marshal(f)
		check(t, err)
		check(t, replaceFile(q.o.Dir, findingsFile, data, false))
	}
	p.boot()
	dial, _ := p.prepared(1, newLink(t, 100e6, 0))
	check(t, p.from.Converge(t.Context(), "shop", 1, dial, nil))
	t.Logf("held, the source is %s", p.state(0))
	check(t, p.to.DropIncoming(t.Context(), "shop", 1))
	check(t, p.from.Rollback(t.Context(), "shop", 1))
	p.goesOn(0)
	dial, _ = p.prepared(2, newLink(t, 100e6, 0))
	check(t, p.from.Converge(t.Context(), "shop", 2, dial, nil))
	check(t, p.from.Quiesce(t.Context(), "shop", 2, nil))
	check(t, p.to.Loaded(t.Context(), "shop", 2))
	check(t, p.to.Activate(t.Context(), "shop", 2))
	p.goesOn(1)
}
