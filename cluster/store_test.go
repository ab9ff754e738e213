package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t *testing.T, s *Store, key, value string, expected int64) int64 {
	t.Helper()
	rev, err := s.Put(t.Context(), key, []byte(value), expected)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func TestAWriteAtAnotherRevisionIsAConflictThatNamesBoth(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	key := ObjectKey("services", "shop")
	first := put(t, s, key, "a", Absent)
	second := put(t, s, key, "b", first)

	for _, expected := range []int64{Absent, first, second + 1} {
		_, err := s.Put(ctx, key, []byte("c"), expected)
		wantErr(t, err, ErrConflict)
		var c *ConflictError
		if !errors.As(err, &c) || c.Key != key || c.Expected != expected || c.Actual != second {
			t.Errorf("conflict is %+v (%v)", c, err)
		}
	}
	wantErr(t, s.Delete(ctx, key, first), ErrConflict)
	o, err := s.Get(ctx, key)
	if err != nil || string(o.Value) != "b" || o.Revision != second || o.Key != key {
		t.Fatalf("got %+v, %v", o, err)
	}
	put(t, s, key, "d", Any)
	if err := s.Delete(ctx, key, Any); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(ctx, key)
	wantErr(t, err, ErrNotFound)
	wantErr(t, s.Delete(ctx, key, Any), ErrNotFound)
	wantErr(t, s.Delete(ctx, key, Absent), ErrInvalid)
	wantErr(t, s.Delete(ctx, key, second), ErrConflict)
}

func TestATransactionHappensWholeOrNotAtAll(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	a, b := ObjectKey("t", "a"), ObjectKey("t", "b")
	rev := put(t, s, a, "1", Absent)

	_, err := s.Txn(ctx, []Compare{{a, rev}, {b, rev}}, []Op{{Key: a, Value: []byte("2")}, {Key: b, Value: []byte("2")}})
	wantErr(t, err, ErrConflict)
	if o, _, _ := s.List(ctx, ObjectKey("t", "")); len(o) != 1 || string(o[0].Value) != "1" {
		t.Fatalf("a failed transaction left %v", o)
	}
	rev2, err := s.Txn(ctx, []Compare{{a, rev}, {b, Absent}, {a, Any}}, []Op{{Key: a, Delete: true}, {Key: b, Value: []byte("2")}})
	if err != nil {
		t.Fatal(err)
	}
	o, at, err := s.List(ctx, ObjectKey("t", ""))
	if err != nil || len(o) != 1 || o[0].Key != b || o[0].Revision != rev2 || at != rev2 {
		t.Fatalf("list is %v at %d, %v; want b at %d", o, at, err, rev2)
	}
	_, err = s.Txn(ctx, nil, []Op{{Key: a}, {Key: a, Delete: true}})
	wantErr(t, err, ErrInvalid)
}

func TestOneOfTwoDecisionsOnAnOwnerWins(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	_, _, err := s.Owner(ctx, "shop")
	wantErr(t, err, ErrNotFound)
	home := Owner{Service: "shop", Site: "west", Host: "west-host", Epoch: 7}
	b, err := home.Encode()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, OwnerKey("shop"), string(b), Absent)
	got, rev, err := s.Owner(ctx, "shop")
	if err != nil || got != home {
		t.Fatalf("owner is %+v, %v", got, err)
	}
	results := make(chan error)
	for _, site := range []string{"east", "west"} {
		go func() {
			o := home
			o.Site, o.Epoch = site, 8
			b, err := o.Encode()
			if err == nil {
				_, err = s.Txn(ctx, []Compare{{OwnerKey("shop"), rev}}, []Op{{Key: OwnerKey("shop"), Value: b}})
			}
			results <- err
		}()
	}
	first, second := <-results, <-results
	if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), ErrConflict) {
		t.Fatalf("results are %v and %v, want one success and one conflict", first, second)
	}
}

func TestEpochsAreNeverGivenOutTwice(t *testing.T) {
	dir := t.TempDir()
	s, ctx := open(t, dir), t.Context()
	const callers, each = 8, 10
	type result struct {
		epochs []uint64
		err    error
	}
	results := make(chan result)
	for range callers {
		go func() {
			var r result
			for range each {
				var e uint64
				if e, r.err = s.NextEpoch(ctx); r.err != nil {
					break
				}
				r.epochs = append(r.epochs, e)
			}
			results <- r
		}()
	}
	seen := map[uint64]bool{}
	for range callers {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if !slices.IsSorted(r.epochs) {
			t.Errorf("one caller saw %v", r.epochs)
		}
		for _, e := range r.epochs {
			if seen[e] || e == 0 {
				t.Errorf("epoch %d given out twice, or zero", e)
			}
			seen[e] = true
		}
	}
	if err := s.RaiseEpoch(ctx, 1000); err != nil {
		t.Fatal(err)
	}
	if err := s.RaiseEpoch(ctx, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if e, err := open(t, dir).NextEpoch(ctx); err != nil || e != 1001 {
		t.Fatalf("next epoch after reopening is %d, %v; want 1001", e, err)
	}
}

func TestASecondOpenOfADirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := Open(t.Context(), Options{Dir: dir})
	wantErr(t, err, ErrInUse)
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for _, o := range []Options{{}, {Dir: t.TempDir(), Name: "a,b"}} {
		_, err := Open(t.Context(), o)
		wantErr(t, err, ErrInvalid)
	}
}

func receive(t *testing.T, changes <-chan Change) Change {
	t.Helper()
	select {
	case c, ok := <-changes:
		if !ok {
			t.Fatal("watch has ended")
		}
		return c
	case <-time.After(20 * time.Second):
		t.Fatal("no change came")
		return Change{}
	}
}

func TestAWatchFromAListMissesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	key := func(n int) string { return ObjectKey("w", fmt.Sprint(n)) }
	put(t, s, key(0), "old", Absent)
	_, rev, err := s.List(ctx, ObjectKey("w", ""))
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, key(1), "between", Absent)
	changes := s.Watch(ctx, ObjectKey("w", ""), rev)
	put(t, s, ObjectKey("other", "x"), "not watched", Absent)
	if err := s.Delete(ctx, key(0), Any); err != nil {
		t.Fatal(err)
	}
	if c := receive(t, changes); c.Key != key(1) || string(c.Value) != "between" || c.Deleted {
		t.Errorf("first change is %+v", c)
	}
	if c := receive(t, changes); c.Key != key(0) || !c.Deleted || c.Value != nil || c.Revision <= rev {
		t.Errorf("second change is %+v", c)
	}

	everything := s.Watch(ctx, ObjectKey("w", ""), 0)
	if c := receive(t, everything); c.Key != key(1) {
		t.Errorf("watch from 0 begins with %+v", c)
	}
	put(t, s, key(2), "new", Absent)
	if c := receive(t, everything); c.Key != key(2) {
		t.Errorf("and goes on with %+v", c)
	}
	cancel()
	for range changes {
	}
	for range everything {
	}
}

func TestAWatchOvertakenByCompactionListsAgain(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	key := func(n string) string { return ObjectKey("w", n) }
	put(t, s, key("stays"), "1", Absent)
	put(t, s, key("goes"), "1", Absent)
	_, rev, err := s.List(ctx, ObjectKey("w", ""))
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{store: s, prefix: ObjectKey("w", ""), rev: rev, known: map[string]bool{}, out: make(chan Change)}
	if err := w.recall(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, key("goes"), Any); err != nil {
		t.Fatal(err)
	}
	put(t, s, key("comes"), "1", Absent)
	last := put(t, s, key("comes"), "2", Any)
	if _, err := s.client.Compact(ctx, last); err != nil {
		t.Fatal(err)
	}
	w.caughtUp = true
	if !s.start(func() { w.run(ctx) }) {
		t.Fatal("store is closed")
	}
	if c := receive(t, w.out); c.Key != key("comes") || string(c.Value) != "2" {
		t.Errorf("first change is %+v", c)
	}
	if c := receive(t, w.out); c.Key != key("goes") || !c.Deleted {
		t.Errorf("second change is %+v", c)
	}
	put(t, s, key("later"), "1", Absent)
	if c := receive(t, w.out); c.Key != key("later") {
		t.Errorf("third change is %+v", c)
	}
}

func TestACancelledCallSaysSo(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, get := s.Get(ctx, "a")
	_, _, list := s.List(ctx, "a")
	_, write := s.Put(ctx, "a", nil, Any)
	_, lead := s.Lead(ctx, "a", "b")
	for _, err := range []error{get, list, write, lead, s.Delete(ctx, "a", Any)} {
		wantErr(t, err, context.Canceled)
	}
}

func TestAClosedStoreEndsItsWatches(t *testing.T) {
	s := open(t, t.TempDir())
	changes := s.Watch(t.Context(), root, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range changes {
	}
	for range s.Watch(t.Context(), root, 0) {
	}
}
