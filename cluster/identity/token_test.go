package identity

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func token(t testing.TB, ca Fingerprint) Token {
	t.Helper()
	tok, err := NewToken(ca)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestATokenSurvivesBeingPasted(t *testing.T) {
	tok := token(t, Fingerprint{1, 2, 3})
	text := tok.Text()
	if len(text) > 100 || !strings.HasPrefix(text, "godwit1.") {
		t.Errorf("token is %d characters: %s", len(text), text)
	}
	for _, pasted := range []string{text, " " + text + "\n", text[:40] + "\r\n  " + text[40:]} {
		got, err := ParseToken(pasted)
		if err != nil || got != tok {
			t.Errorf("%q reads as %v, %v", pasted, got, err)
		}
	}
	other := token(t, Fingerprint{1, 2, 3})
	if other.ID() == tok.ID() || other.Hash() == tok.Hash() {
		t.Error("two tokens are alike")
	}
}

func TestADamagedTokenIsRefused(t *testing.T) {
	text := token(t, Fingerprint{9}).Text()
	bad := []string{"", "godwit1.", "godwit2." + text[8:], text[8:], text[:len(text)-1], text + "A", text + text}
	for i := len("godwit1."); i < len(text); i++ {
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		bad = append(bad, text[:i]+string(c)+text[i+1:])
	}
	for _, s := range bad {
		if _, err := ParseToken(s); !errors.Is(err, ErrToken) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestATokenInALogIsHarmless(t *testing.T) {
	tok := token(t, Fingerprint{1})
	secret := tok.Text()[len("godwit1."):]
	for _, verb := range []string{"%v", "%s", "%+v"} {
		if s := fmt.Sprintf(verb, tok); strings.Contains(s, secret[12:30]) || !strings.Contains(s, tok.ID()) {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

func TestJoiningTrustsOnlyThePinnedAuthority(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	tok := token(t, ours.Fingerprint())
	listener := must(t)(issue(t, ours, boss).ServerTLS(false))
	s, c := shake(t, listener, JoinTLS(tok))
	if s.err != nil || c.err != nil || c.peer != boss || s.peer != (Identity{}) {
		t.Fatalf("server sees %+v, client %+v", s, c)
	}
	_, c = shake(t, must(t)(issue(t, theirs, boss).ServerTLS(false)), JoinTLS(tok))
	wantErr(t, c.err, ErrOtherCA)
	_, c = shake(t, must(t)(issue(t, ours, host).ServerTLS(false)), JoinTLS(tok))
	wantErr(t, c.err, ErrRole)

	// Somebody in between shows the right CA beside a certificate of his own.
	forged, err := issue(t, theirs, boss).parse()
	if err != nil {
		t.Fatal(err)
	}
	listener.Certificates[0] = forged.tls
	listener.Certificates[0].Certificate = [][]byte{forged.leaf.Raw, ours.cert.Raw}
	_, c = shake(t, listener, JoinTLS(tok))
	wantErr(t, c.err, ErrOtherCA)

	late := func() time.Time { return time.Now().Add(2 * certLife) }
	_, c = shake(t, must(t)(issue(t, ours, boss).ServerTLS(false)), joinTLS(tok, late))
	wantErr(t, c.err, ErrExpired)
}

func TestCredentialsOfAnotherAuthorityThanPinnedAreNotTaken(t *testing.T) {
	ours, theirs := authority(t), authority(t)
	tok := token(t, ours.Fingerprint())
	if err := tok.Check(issue(t, ours, host)); err != nil {
		t.Error(err)
	}
	wantErr(t, tok.Check(issue(t, theirs, host)), ErrOtherCA)
	if tok.Check(Credentials{}) == nil {
		t.Error("nothing was taken for credentials")
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(token(f, Fingerprint{1}).Text())
	f.Add("godwit1.")
	f.Add("godwit1.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		tok, err := ParseToken(text)
		if err != nil {
			if !errors.Is(err, ErrToken) || tok != (Token{}) {
				t.Fatalf("%v, %v", tok, err)
			}
			return
		}
		if got := strings.Join(strings.Fields(text), ""); tok.Text() != got {
			t.Fatalf("%q is %q", got, tok.Text())
		}
	})
}
