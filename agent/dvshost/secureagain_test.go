package dvshost

import (
	"crypto/tls"
	"net"
	"testing"
)

// dvs/node seals streams if the link's connection has a ConnectionState.
func TestALinkShowsThatItIsSecure(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	type secure interface{ ConnectionState() tls.ConnectionState }
	if _, is := asSecure(&readAgain{Conn: tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13})}).(secure); !is {
		t.Error("a connection over TLS does not show it")
	}
	if _, is := asSecure(&readAgain{Conn: b}).(secure); is {
		t.Error("a plain connection looks like TLS")
	}
}
