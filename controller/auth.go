package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"connectrpc.com/connect"

	"github.com/godwit-project/godwit/cluster/identity"
)

type callerKey struct{}

// caller is who makes a request: the identity of the verified certificate, or the local operator over the unix socket.
type caller struct {
	identity.Identity
	known bool
}

// withPeer puts the identity of the TLS peer into the request's context. The handshake has already verified that the
// certificate, where there is one, is from our CA.
func withPeer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c caller
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			id, err := identity.FromCertificate(r.TLS.PeerCertificates[0])
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			c = caller{Identity: id, known: true}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// asLocalOperator is for the unix socket: who may open the file may operate.
func asLocalOperator(next http.Handler) http.Handler {
	c := caller{Identity: identity.Identity{Role: identity.Operator, Name: "local"}, known: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// requireRole refuses a caller who has none of the roles.
func requireRole(ctx context.Context, roles ...identity.Role) (identity.Identity, error) {
	c, _ := ctx.Value(callerKey{}).(caller)
	if !c.known {
		return identity.Identity{}, connect.NewError(connect.CodeUnauthenticated,
			errors.New("no client certificate\nhint: join first (godwit join), or call over the controller's unix socket"))
	}
	for _, r := range roles {
		if c.Role == r {
			return c.Identity, nil
		}
	}
	return identity.Identity{}, connect.NewError(connect.CodePermissionDenied,
		fmt.Errorf("the certificate of %s has the role %s, this needs %v", c.Name, c.Role, roles))
}
