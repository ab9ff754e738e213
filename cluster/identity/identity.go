package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Errors of identities and of the checks of certificates.
var (
	// ErrInvalid: an identity, name or role that cannot be.
	ErrInvalid = errors.New("invalid identity")
	// ErrNoIdentity: a certificate that names no Godwit identity.
	ErrNoIdentity = errors.New("certificate names no Godwit identity")
	// ErrNoCertificate: the peer sent no certificate.
	ErrNoCertificate = errors.New("peer has no certificate; join it with `godwit join`")
	// ErrOtherCA: a certificate of another authority. The error is an *OtherCAError.
	ErrOtherCA = errors.New("certificate is from another CA")
	// ErrRole: a valid certificate of this cluster, but not of the party expected.
	ErrRole = errors.New("peer has another role or place than expected")
	// ErrExpired: a certificate of this cluster whose time is over or has not begun.
	ErrExpired = errors.New("certificate is not valid at this time")
)

// Role says what a certificate's holder is.
type Role string

// The roles.
const (
	Controller Role = "controller"
	Agent      Role = "agent"
	Operator   Role = "operator" // a person or program that may change things
	Viewer     Role = "viewer"   // … that may only look
)

// Kinds of agents.
const (
	Host = "host"
	Edge = "edge"
)

const (
	scheme = "godwit"
	none   = "-"
)

var (
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)
	clusterForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Identity is a party of the cluster.
type Identity struct {
	Role Role   `json:"role"`
	Kind string `json:"kind,omitempty"` // Host or Edge; agents only
	Site string `json:"site,omitempty"` // required for agents
	Name string `json:"name"`
}

func (id Identity) String() string {
	s := string(id.Role)
	if id.Kind != "" {
		s = id.Kind + " " + s
	}
	if s == "" {
		s = "anybody"
	}
	if id.Name != "" {
		s += " " + id.Name
	}
	if id.Site != "" {
		s += " of site " + id.Site
	}
	return s
}

// Validate reports what is wrong with the identity; the error matches ErrInvalid.
func (id Identity) Validate() error {
	switch id.Role {
	case Agent:
		if id.Kind != Host && id.Kind != Edge {
			return fmt.Errorf("%w: kind of agent %q is %q, not host or edge", ErrInvalid, id.Name, id.Kind)
		}
		if id.Site == "" {
			return fmt.Errorf("%w: agent %q has no site", ErrInvalid, id.Name)
		}
	case Controller, Operator, Viewer:
		if id.Kind != "" {
			return fmt.Errorf("%w: only agents have a kind, %s %q has %q", ErrInvalid, id.Role, id.Name, id.Kind)
		}
	default:
		return fmt.Errorf("%w: role %q is not controller, agent, operator or viewer", ErrInvalid, id.Role)
	}
	if !nameForm.MatchString(id.Name) {
		return badName("name", id.Name)
	}
	if id.Site != "" && !nameForm.MatchString(id.Site) {
		return badName("site", id.Site)
	}
	return nil
}

func badName(what, s string) error {
	return fmt.Errorf("%w: %s %q; use up to 63 letters, digits, '.', '_', '@' and '-', beginning with a letter or digit", ErrInvalid, what, s)
}

// uri is the identity's form in a certificate of the named cluster.
func (id Identity) uri(cluster string) *url.URL {
	parts := []string{string(id.Role), id.Kind, id.Site, id.Name}
	for i, p := range parts {
		if p == "" {
			parts[i] = none
		}
	}
	return &url.URL{Scheme: scheme, Host: cluster, Path: "/" + strings.Join(parts, "/")}
}

// FromCertificate reads the identity that a certificate names. It says nothing
// about who signed it: use it only on certificates that a handshake has checked.
func FromCertificate(c *x509.Certificate) (Identity, error) {
	var found *url.URL
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		if found != nil {
			return Identity{}, fmt.Errorf("%w: it names two", ErrNoIdentity)
		}
		found = u
	}
	if found == nil {
		return Identity{}, ErrNoIdentity
	}
	parts := strings.Split(found.Path, "/")
	if len(parts) != 5 || parts[0] != "" {
		return Identity{}, fmt.Errorf("%w: %q has another form", ErrNoIdentity, found)
	}
	for i, p := range parts {
		if p == none {
			parts[i] = ""
		}
	}
	id := Identity{Role: Role(parts[1]), Kind: parts[2], Site: parts[3], Name: parts[4]}
	if err := id.Validate(); err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	if found.String() != id.uri(found.Host).String() {
		return Identity{}, fmt.Errorf("%w: %q has another form", ErrNoIdentity, found)
	}
	return id, nil
}

// PeerIdentity is the identity of the other end of a connection made with
// ServerTLS or ClientTLS, which have checked its certificate.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, ErrNoCertificate
	}
	return FromCertificate(cs.PeerCertificates[0])
}
