package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/cluster/identity"
)

const joinedFile = "agent.json"

// joined is what an agent knows of its cluster beside its credentials.
type joined struct {
	Controller string `json:"controller"` // ADDRESS:PORT
}

// JoinOptions say how to join.
type JoinOptions struct {
	// Token is the text that godwit token create printed.
	Token string
	// Controller is the controller's ADDRESS:PORT.
	Controller string
	// Dir is where the identity is kept.
	Dir string
}

// Join exchanges a one-time token for a certificate. The key is made here and never leaves the machine; the controller
// is trusted only if it holds the CA that the token pins.
func Join(ctx context.Context, o JoinOptions) error {
	if _, err := os.Stat(filepath.Join(o.Dir, joinedFile)); err == nil {
		return fmt.Errorf("%s has joined already: remove it to join anew", o.Dir)
	}
	token, err := identity.ParseToken(o.Token)
	if err != nil {
		return err
	}
	key, csr, err := identity.NewAnonymousKeyAndCSR()
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: identity.JoinTLS(token), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := godwitv1connect.NewJoinServiceClient(&http.Client{Transport: transport}, "https://"+o.Controller)
	res, err := client.Join(ctx, connect.NewRequest(&pb.JoinRequest{Token: o.Token, CsrPem: csr}))
	if err != nil {
		var remote *connect.Error
		if errors.As(err, &remote) {
			err = errors.New(remote.Message())
		}
		return fmt.Errorf("join at %s: %w", o.Controller, err)
	}
	credentials := identity.Credentials{CertPEM: res.Msg.GetCertificatePem(), KeyPEM: key, CAPEM: res.Msg.GetCaPem()}
	if err := token.Check(credentials); err != nil {
		return fmt.Errorf("join at %s: %w", o.Controller, err)
	}
	if err := credentials.Save(o.Dir); err != nil {
		return err
	}
	return writeJSON(filepath.Join(o.Dir, joinedFile), joined{Controller: o.Controller}, true)
}
