//go:build lab

package acceptance

import (
	"context"
	"testing"
	"time"
)

// migrate moves the service, which has to arrive.
func (w *world) migrate(t *testing.T, to string) {
	t.Helper()
	w.must(t, "migrate", service, "--to", to)
	m := w.migration(t, "")
	t.Log(m.story())
	if m.Phase != "completed" || m.Destination != to || w.site(t) != to {
		t.Fatalf("it is at %s: %s", w.site(t), m.story())
	}
}

func TestAServiceMovesThereAndBackAndItsClientLosesNothing(t *testing.T) {
	rounds, flags := 2, []string{"--bandwidth", "400mbit"}
	if soak() {
		rounds, flags = 10, nil // the lab as it is by default
	}
	w := up(t, "acc-move", flags...)
	empty := w.inventory(t)
	w.start(t)
	stable := w.inventory(t)
	for range rounds {
		for _, to := range []string{"east", "west"} {
			p := w.probe(t)
			w.migrate(t, to)
			w.ownedOnce(t)
			report := p.stop(t)
			t.Logf("%s: %s", to, gap(report))
			w.verify(t, report.LastAcked)
		}
	}
	w.nothingLeft(t, stable)

	t.Run("a prepared migration holds, ready, while the guest works, and continues", func(t *testing.T) {
		p := w.probe(t)
		w.must(t, "migrate", service, "--to", "east", "--prepare")
		m := w.migration(t, "")
		if !m.Ready || m.Phase != "converging" || w.site(t) != "west" {
			t.Fatalf("it does not hold: %s", m.story())
		}
		const held = 5 * time.Second
		time.Sleep(held) // what is tried is that nothing happens
		if m = w.migration(t, m.Name); !m.Ready || m.Phase != "converging" {
			t.Errorf("after %v it does not hold: %s", held, m.story())
		}
		w.must(t, "migration", "continue", m.Name)
		if m = w.migration(t, m.Name); m.Phase != "completed" || w.site(t) != "east" {
			t.Errorf("it was continued: %s", m.story())
		}
		w.ownedOnce(t)
		report := p.stop(t)
		t.Logf("%s; %s", m.story(), gap(report))
		w.verify(t, report.LastAcked)
	})
	t.Run("an abort puts everything back", func(t *testing.T) {
		stable := w.inventory(t)
		p := w.probe(t)
		w.must(t, "migrate", service, "--to", "west", "--prepare")
		name := w.migration(t, "").Name
		w.must(t, "migration", "abort", name, "--reason", "put off")
		if m := w.migration(t, name); m.Phase != "aborted" || m.Reason == "" || w.site(t) != "east" {
			t.Errorf("it was aborted: %s", m.story())
		}
		w.ownedOnce(t)
		report := p.stop(t)
		t.Log(gap(report))
		w.verify(t, report.LastAcked)
		w.nothingLeft(t, stable)
	})
	t.Run("a migration waits, ready, for its time", func(t *testing.T) {
		p := w.probe(t)
		const wait = 20 * time.Second
		begun := time.Now()
		w.must(t, "migrate", service, "--to", "west", "--at", "+"+wait.String())
		m := w.migration(t, "")
		if m.Phase != "completed" || w.site(t) != "west" {
			t.Errorf("it was to be moved: %s", m.story())
		}
		if early := m.at(begun.Add(wait - 500*time.Millisecond)); early != "converging" {
			t.Errorf("just before its time it was %s: %s", early, m.story())
		}
		w.ownedOnce(t)
		report := p.stop(t)
		t.Logf("%s; %s", m.story(), gap(report))
		w.verify(t, report.LastAcked)
	})
	w.nothingLeft(t, stable)
	t.Run("a service is deleted with all that was made for it, also after a migration that was aborted", func(t *testing.T) {
		w.must(t, "migrate", service, "--to", "east", "--prepare")
		w.must(t, "migration", "abort", w.migration(t, "").Name)
		const soon = time.Minute
		ctx, stop := during(t)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		if r := w.run(ctx, nil, "delete", "service", service); r.code != 0 {
			t.Fatalf("delete, for at most %v: %v", soon, r)
		}
		w.nothingLeft(t, empty)
	})
}
