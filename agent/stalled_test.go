package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/storage"
)

// stopped is a guest that its platform has stopped, and a disk.
type stopped struct {
	stalled bool
	short   bool
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
		short: func(string) (bool, error) { return s.short, nil }, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestAGuestGoesOnWhenThereIsRoom(t *testing.T) {
	s := &stopped{}
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
	s.stalled, s.short = true, true
	look(reviveEvery, 0)
	look(time.Hour, 0)
	s.short = false
	look(reviveEvery, 1)
	s.stalled = false
	look(reviveEvery, 1)
}

func TestAGuestWhoseDiskTakesNothingIsTriedLessAndLess(t *testing.T) {
	s := &stopped{stalled: true}
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

func TestRoomMattersIfTheLastWriteFoundNone(t *testing.T) {
	for _, c := range []struct {
		kinds []string // the last first
		want  bool
	}{
		{nil, false},
		{[]string{storage.FaultNoSpace}, true},
		{[]string{storage.FaultRead, storage.FaultCorrupt, storage.FaultNoSpace, storage.FaultWrite}, true},
		{[]string{storage.FaultWrite, storage.FaultNoSpace}, false},
		{[]string{storage.FaultFailed, storage.FaultNoSpace}, false},
		{[]string{storage.FaultRepaired}, false},
	} {
		var all []storage.Alert
		for _, kind := range c.kinds {
			all = append(all, storage.Alert{Kind: kind})
		}
		if got := foundNoRoom(all); got != c.want {
			t.Errorf("%q: %v", c.kinds, got)
		}
	}
}
