package main

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"os"
	"strings"

	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/lab"
)

// defaultSocket is where the controller of this machine listens.
const defaultSocket = "/run/godwit/controller.sock"

// dial makes a client of the controller that the flags, the environment or this machine name.
func (a *app) dial() (*api.Client, error) {
	server := a.serverName()
	var tlsConfig *tls.Config
	if directory := cmp.Or(a.identity, a.env("GODWIT_IDENTITY")); directory != "" && !isSocket(server) {
		credentials, err := identity.LoadCredentials(directory)
		if err != nil {
			return nil, fmt.Errorf("identity %s: %w", directory, err)
		}
		if tlsConfig, err = credentials.ClientTLS(identity.Controller); err != nil {
			return nil, fmt.Errorf("identity %s: %w", directory, err)
		}
	}
	return api.Dial(server, tlsConfig)
}

// serverName is --server, $GODWIT_SERVER, the controller of this machine, or that of the lab.
func (a *app) serverName() string {
	if named := cmp.Or(a.server, a.env("GODWIT_SERVER")); named != "" {
		return named
	}
	if _, err := os.Stat(defaultSocket); err != nil {
		if up, err := lab.Open(lab.DefaultName); err == nil {
			return up.Server()
		}
	}
	return "unix://" + defaultSocket
}

func isSocket(server string) bool {
	return strings.HasPrefix(server, "unix:") || strings.HasPrefix(server, "/")
}
