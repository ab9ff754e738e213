package cluster

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/cluster/identity"
)

const tokenPrefix = root + "tokens/"

// tokenMemory is how long a token that expired is remembered, to tell its user
// "expired" or "used" instead of "unknown".
const tokenMemory = 7 * 24 * time.Hour

// TokenRecord is what the store keeps of a join token: who may join with it,
// until when. The secret is kept only as its hash.
type TokenRecord struct {
	ID       string            `json:"id"`
	Hash     string            `json:"hash"` // identity.Token.Hash
	Identity identity.Identity `json:"identity"`
	Expires  time.Time         `json:"expires"`
	Used     time.Time         `json:"used,omitzero"`
}

// SaveToken stores a new token.
func (s *Store) SaveToken(ctx context.Context, r TokenRecord) error {
	if r.ID == "" || r.Hash == "" || r.Expires.IsZero() {
		return fmt.Errorf("save join token: %w: id, hash or expiry is missing", ErrInvalid)
	}
	if err := r.Identity.Validate(); err != nil {
		return fmt.Errorf("save join token: %w", err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save join token: %w", err)
	}
	if _, err := s.Put(ctx, tokenPrefix+r.ID, b, Absent); err != nil {
		return fmt.Errorf("save join token: %w", err)
	}
	return nil
}

// TakeToken uses a token up and returns the identity that it stands for. Of
// concurrent calls with one token one gets it, the others ErrTokenUsed. A
// wrong secret is ErrTokenUnknown and does not use the token up.
func (s *Store) TakeToken(ctx context.Context, id, secretHash string, now time.Time) (identity.Identity, error) {
	obj, err := s.Get(ctx, tokenPrefix+id)
	if errors.Is(err, ErrNotFound) {
		return identity.Identity{}, ErrTokenUnknown
	}
	if err != nil {
		return identity.Identity{}, fmt.Errorf("take join token: %w", err)
	}
	var r TokenRecord
	if err := json.Unmarshal(obj.Value, &r); err != nil {
		return identity.Identity{}, fmt.Errorf("take join token: record of %s is damaged: %w", id, err)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(r.Hash), []byte(secretHash)) != 1:
		return identity.Identity{}, ErrTokenUnknown
	case !r.Used.IsZero():
		return identity.Identity{}, ErrTokenUsed
	case !now.Before(r.Expires):
		return identity.Identity{}, ErrTokenExpired
	}
	r.Used = now
	b, err := json.Marshal(r)
	if err != nil {
		return identity.Identity{}, fmt.Errorf("take join token: %w", err)
	}
	_, err = s.Put(ctx, obj.Key, b, obj.Revision)
	if errors.Is(err, ErrConflict) {
		return identity.Identity{}, ErrTokenUsed
	}
	if err != nil {
		return identity.Identity{}, fmt.Errorf("take join token: %w", err)
	}
	return r.Identity, nil
}

// PruneTokens forgets tokens that expired more than a week before now.
func (s *Store) PruneTokens(ctx context.Context, now time.Time) error {
	objects, _, err := s.List(ctx, tokenPrefix)
	if err != nil {
		return fmt.Errorf("prune join tokens: %w", err)
	}
	for _, o := range objects {
		var r TokenRecord
		if json.Unmarshal(o.Value, &r) == nil && now.Before(r.Expires.Add(tokenMemory)) {
			continue
		}
		if err := s.Delete(ctx, o.Key, o.Revision); err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("prune join tokens: %w", err)
		}
	}
	return nil
}
