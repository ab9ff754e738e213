package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
)

// stopped is a guest that its platform has stopped, and a disk.
type stopped struct {
	stalled bool
	free    int64
	starts  int
	err     error
}

func (s *stopped) reviver(t *testing.T) *reviver {
	return &reviver{
		status: func(context.Context, string) (server.Status, error) { return server.Status{Stalled: s.stalled}, nil },
		start: func(context.Context, string) error {
			s.starts++
			return s.err
		},
		free: func() (int64, error) { return s.free, nil }, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestAGuestGoesOnWhenThereIsRoom(t *testing.T) {
	s := &stopped{free: 1 << 30}
	r := s.reviver(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	look := func(after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		if err := r.look(t.Context(), "shop", now); !errors.Is(err, s.err) {
			t.Fatal(err)
		}
		if s.starts != want {
			t.Errorf("it was started %d times, want %d", s.starts, want)
		}
	}
	look(0, 0) // it runs
	s.stalled, s.free = true, 1<<20
	look(reviveEvery, 0)
	look(time.Hour, 0)
	s.free = 1 << 30
	look(reviveEvery, 1)
	s.stalled = false
	look(reviveEvery, 1)
}

func TestAGuestWhoseDiskTakesNothingIsTriedLessAndLess(t *testing.T) {
	s := &stopped{stalled: true, free: 1 << 30}
	r := s.reviver(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for range 300 { // ten minutes
		if err := r.look(t.Context(), "shop", now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(reviveEvery)
	}
	if s.starts < 10 || s.starts > 18 {
		t.Errorf("in ten minutes it was tried %d times", s.starts)
	}
	s.err = errors.New("it is handed over")
	now = now.Add(3 * reviveLast)
	if err := r.look(t.Context(), "shop", now); !errors.Is(err, s.err) {
		t.Errorf("the failure of an attempt: %v", err)
	}
}
