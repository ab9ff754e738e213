package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/godwit-project/godwit/cluster/identity"
)

var (
	westHost = identity.Identity{Role: identity.Agent, Kind: identity.Host, Site: "west", Name: "west-host"}
	noon     = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

func saveToken(t *testing.T, s *Store) identity.Token {
	t.Helper()
	tok, err := identity.NewToken(identity.Fingerprint{1})
	if err != nil {
		t.Fatal(err)
	}
	r := TokenRecord{ID: tok.ID(), Hash: tok.Hash(), Identity: westHost, Expires: noon.Add(time.Hour)}
	if err := s.SaveToken(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.SaveToken(t.Context(), r), ErrConflict)
	return tok
}

func TestATokenLetsOneOfManyIn(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	tok := saveToken(t, s)
	results := make(chan error)
	const joiners = 8
	for range joiners {
		go func() {
			id, err := s.TakeToken(ctx, tok.ID(), tok.Hash(), noon)
			if err == nil && id != westHost {
				err = errors.New("another identity: " + id.String())
			}
			results <- err
		}()
	}
	in := 0
	for range joiners {
		if err := <-results; err == nil {
			in++
		} else {
			wantErr(t, err, ErrTokenUsed)
		}
	}
	if in != 1 {
		t.Fatalf("%d joined with one token", in)
	}
}

func TestATokenIsRefusedForAReason(t *testing.T) {
	s, ctx := open(t, t.TempDir()), t.Context()
	tok, other := saveToken(t, s), saveToken(t, s)
	for _, c := range []struct {
		name     string
		id, hash string
		now      time.Time
		want     error
	}{
		{"no such token", "0000", tok.Hash(), noon, ErrTokenUnknown},
		{"another token's secret", tok.ID(), other.Hash(), noon, ErrTokenUnknown},
		{"no secret", tok.ID(), "", noon, ErrTokenUnknown},
		{"too late", tok.ID(), tok.Hash(), noon.Add(time.Hour), ErrTokenExpired},
		{"in time", tok.ID(), tok.Hash(), noon.Add(time.Hour - 1), nil},
		{"again", tok.ID(), tok.Hash(), noon, ErrTokenUsed},
		{"again and too late", tok.ID(), tok.Hash(), noon.Add(2 * time.Hour), ErrTokenUsed},
	} {
		if _, err := s.TakeToken(ctx, c.id, c.hash, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if err := s.PruneTokens(ctx, noon); err != nil {
		t.Fatal(err)
	}
	if o, _, _ := s.List(ctx, tokenPrefix); len(o) != 2 {
		t.Errorf("pruned too early: %d left of 2", len(o))
	}
	if err := s.PruneTokens(ctx, noon.Add(time.Hour+tokenMemory)); err != nil {
		t.Fatal(err)
	}
	if o, _, _ := s.List(ctx, tokenPrefix); len(o) != 0 {
		t.Errorf("%d tokens left after their time", len(o))
	}
}

func TestATokenForNobodyIsNotSaved(t *testing.T) {
	s := open(t, t.TempDir())
	err := s.SaveToken(t.Context(), TokenRecord{ID: "a", Hash: "b", Expires: noon})
	wantErr(t, err, identity.ErrInvalid)
	wantErr(t, s.SaveToken(t.Context(), TokenRecord{ID: "a", Identity: westHost}), ErrInvalid)
}
