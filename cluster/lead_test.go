package cluster

import (
	"context"
	"errors"
	"testing"
	"time"
)

func lead(t *testing.T, s *Store, id string) *Leadership {
	t.Helper()
	l, err := s.Lead(t.Context(), "mms", id)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func lost(t *testing.T, l *Leadership) {
	t.Helper()
	select {
	case <-l.Lost():
	case <-time.After(20 * time.Second):
		t.Fatal("leadership was not reported lost")
	}
}

func TestTheNextCandidateLeadsWhenTheLeaderResigns(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	west := lead(t, s, "west")
	impatient, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := s.Lead(impatient, "mms", "east"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second leader: %v", err)
	}
	next := make(chan *Leadership)
	go func() {
		l, err := s.Lead(ctx, "mms", "east")
		if err != nil {
			t.Error(err)
		}
		next <- l
	}()
	put(t, s, ObjectKey("t", "a"), "1", Any)
	if _, err := s.Txn(ctx, []Compare{west.Guard()}, []Op{{Key: ObjectKey("t", "a"), Value: []byte("west")}}); err != nil {
		t.Fatal(err)
	}
	if err := west.Resign(); err != nil {
		t.Fatal(err)
	}
	lost(t, west)
	east := <-next
	if east == nil {
		t.FailNow()
	}
	_, err := s.Txn(ctx, []Compare{west.Guard()}, []Op{{Key: ObjectKey("t", "a"), Value: []byte("west")}})
	wantErr(t, err, ErrConflict)
	if _, err := s.Txn(ctx, []Compare{east.Guard()}, []Op{{Key: ObjectKey("t", "a"), Value: []byte("east")}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(east.Resign(), west.Resign()); err != nil {
		t.Fatal(err)
	}
}

func TestARestartedCandidateTakesItsOwnLeadOver(t *testing.T) {
	s := open(t, t.TempDir())
	before := lead(t, s, "west")
	after := lead(t, s, "west")
	lost(t, before)
	_, err := s.Txn(t.Context(), []Compare{before.Guard()}, []Op{{Key: ObjectKey("t", "a")}})
	wantErr(t, err, ErrConflict)
	if err := before.Resign(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-after.Lost():
		t.Fatal("the new leadership ended with the old one")
	default:
	}
	if _, err := s.Txn(t.Context(), []Compare{after.Guard()}, []Op{{Key: ObjectKey("t", "a")}}); err != nil {
		t.Fatal(err)
	}
}

func TestLeadershipsEndWithTheStore(t *testing.T) {
	s := open(t, t.TempDir())
	l := lead(t, s, "west")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	lost(t, l)
}

// TestALeaderThatLeadsNoMoreGetsNoEpoch: what it asks for is then older than whatever its successor does.
func TestALeaderThatLeadsNoMoreGetsNoEpoch(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	before := lead(t, s, "west")
	first, err := s.NextEpoch(ctx, before.Guard())
	if err != nil {
		t.Fatal(err)
	}
	now := lead(t, s, "west")
	_, err = s.NextEpoch(ctx, before.Guard())
	wantErr(t, err, ErrConflict)
	if next, err := s.NextEpoch(ctx, now.Guard()); err != nil || next != first+1 {
		t.Fatalf("the next epoch is %d, %v, after %d", next, err, first)
	}
}
