package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
)

// joiner gives certificates to machines that hold a token.
type joiner struct {
	store     *cluster.Store
	authority *identity.Authority
}

// Join takes a one-time token and answers with a certificate for the key of the request, which never leaves the machine
// that joins. It is the one call without a client certificate.
func (j *joiner) Join(ctx context.Context, req *connect.Request[pb.JoinRequest]) (*connect.Response[pb.JoinResponse], error) {
	token, err := identity.ParseToken(req.Msg.GetToken())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if _, err := identity.CheckRequest(req.Msg.GetCsrPem()); err != nil { // looked at before: it must not cost the token
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("certificate request: %w", err))
	}
	who, err := j.store.TakeToken(ctx, token.ID(), token.Hash(), time.Now())
	switch {
	case errors.Is(err, cluster.ErrTokenUnknown), errors.Is(err, cluster.ErrTokenUsed), errors.Is(err, cluster.ErrTokenExpired):
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	case err != nil:
		return nil, err
	}
	cert, err := j.authority.Issue(who, req.Msg.GetCsrPem(), nil)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("issue certificate for %s: %w", who.Name, err))
	}
	return connect.NewResponse(&pb.JoinResponse{
		CertificatePem: cert, CaPem: j.authority.CAPEM(),
		Role: string(who.Role), Kind: who.Kind, Site: who.Site, Name: who.Name,
	}), nil
}

// createToken makes a token for a machine or a person that shall join.
func (j *joiner) createToken(ctx context.Context, req *pb.CreateTokenRequest) (string, error) {
	who := identity.Identity{Site: req.GetSite(), Name: req.GetName()}
	switch req.GetRole() {
	case "host", "edge":
		who.Role, who.Kind = identity.Agent, req.GetRole()
		if who.Site == "" {
			return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a token for a %s needs the site that it belongs to\nhint: godwit token create --role %s --site SITE --name NAME", who.Kind, who.Kind))
		}
	case "operator":
		who.Role = identity.Operator
	case "viewer":
		who.Role = identity.Viewer
	default:
		return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("role %q is not known: host, edge, operator or viewer", req.GetRole()))
	}
	if !api.IsName(who.Name) || (who.Site != "" && !api.IsName(who.Site)) {
		return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("names are lower-case letters, digits and dashes, at most 40: got name %q, site %q", who.Name, who.Site))
	}
	token, err := identity.NewToken(j.authority.Fingerprint())
	if err != nil {
		return "", err
	}
	valid := time.Duration(req.GetValidSeconds()) * time.Second
	if valid <= 0 {
		valid = time.Hour
	}
	record := cluster.TokenRecord{ID: token.ID(), Hash: token.Hash(), Identity: who, Expires: time.Now().Add(valid)}
	if err := j.store.SaveToken(ctx, record); err != nil {
		return "", err
	}
	return token.Text(), nil
}
