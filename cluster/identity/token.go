package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrToken: a text that is not a join token, or not a whole one.
var ErrToken = errors.New("not a join token")

const (
	tokenVersion = "godwit1."
	idSize       = 8
	secretSize   = 16
	sumSize      = 4
	tokenSize    = idSize + secretSize + sha256.Size + sumSize // 60 bytes, 80 characters
)

// Token lets one machine join once. Its text carries the id under which the
// controllers know it, the secret, and the CA that the machine shall trust;
// who the machine becomes is recorded by the controllers, not in the text.
type Token struct {
	id     [idSize]byte
	secret [secretSize]byte
	ca     Fingerprint
}

// NewToken makes a token for the cluster with that CA.
func NewToken(ca Fingerprint) (Token, error) {
	t := Token{ca: ca}
	if _, err := rand.Read(t.id[:]); err != nil {
		return Token{}, fmt.Errorf("make join token: %w", err)
	}
	if _, err := rand.Read(t.secret[:]); err != nil {
		return Token{}, fmt.Errorf("make join token: %w", err)
	}
	return t, nil
}

// ParseToken reads a token's text, with white space around it or within it from
// a wrapped line. The error matches ErrToken and says what to do.
func ParseToken(text string) (Token, error) {
	s := strings.Join(strings.Fields(text), "")
	rest, ok := strings.CutPrefix(s, tokenVersion)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %q; paste the whole token that the controller printed", ErrToken, tokenVersion)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != tokenSize || [sumSize]byte(b[tokenSize-sumSize:]) != checksum(b[:tokenSize-sumSize]) {
		return Token{}, fmt.Errorf("%w: it is damaged or cut short (%d characters, a whole one has %d); paste it again",
			ErrToken, len(s), len(tokenVersion)+base64.RawURLEncoding.EncodedLen(tokenSize))
	}
	var t Token
	b = b[copy(t.id[:], b):]
	b = b[copy(t.secret[:], b):]
	copy(t.ca[:], b)
	return t, nil
}

// Text is the token as a person pastes it. It is a secret until it is used.
func (t Token) Text() string {
	b := make([]byte, 0, tokenSize)
	b = append(b, t.id[:]...)
	b = append(b, t.secret[:]...)
	b = append(b, t.ca[:]...)
	sum := checksum(b)
	return tokenVersion + base64.RawURLEncoding.EncodeToString(append(b, sum[:]...))
}

// String hides the secret, so that a token in a log is harmless.
func (t Token) String() string { return "join token " + t.ID() }

// ID is the name under which the store knows the token; not secret.
func (t Token) ID() string { return hex.EncodeToString(t.id[:]) }

// Hash is what the store keeps of the secret. The secret is random, so a plain
// hash is enough: there is nothing to guess from a dictionary.
func (t Token) Hash() string {
	h := sha256.New()
	h.Write([]byte("godwit join token"))
	h.Write(t.id[:])
	h.Write(t.secret[:])
	return hex.EncodeToString(h.Sum(nil))
}

// Fingerprint is that of the CA which the token pins.
func (t Token) Fingerprint() Fingerprint { return t.ca }

// Check tells whether credentials received in exchange for the token are from
// the CA that it pins, and whole.
func (t Token) Check(c Credentials) error {
	p, err := c.parse()
	if err != nil {
		return fmt.Errorf("check credentials: %w", err)
	}
	if FingerprintOf(p.ca) != t.ca {
		return fmt.Errorf("check credentials: %w", &OtherCAError{Theirs: FingerprintOf(p.ca), Ours: t.ca})
	}
	return nil
}

// JoinTLS is the configuration for the one call that a machine without a
// certificate makes. It trusts only a controller whose chain ends in the CA
// that the token pins.
func JoinTLS(t Token) *tls.Config {
	return joinTLS(t, time.Now)
}

func joinTLS(t Token, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // there is no CA yet but the pinned one; VerifyConnection checks everything
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, c := range cs.PeerCertificates {
				if FingerprintOf(c) == t.ca {
					v := &verifier{ca: c, roles: []Role{Controller}, usage: x509.ExtKeyUsageServerAuth, now: now}
					return v.verify(cs)
				}
			}
			return fmt.Errorf("controller does not have the CA that the join token pins (%s): wrong controller, "+
				"a token of another cluster, or somebody in between; check the address and the token: %w", t.ca, ErrOtherCA)
		},
	}
}

func checksum(b []byte) [sumSize]byte {
	sum := sha256.Sum256(b)
	return [sumSize]byte(sum[:sumSize])
}
