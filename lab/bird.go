package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bird is the router daemon of the core: the provider's side of BGP.
type bird struct {
	program string
	dir     string
}

// findBird looks for the program; Debian keeps it out of an ordinary user's path.
func findBird(dir string) (bird, error) {
	for _, name := range []string{"bird", "/usr/sbin/bird"} {
		if path, err := exec.LookPath(name); err == nil {
			return bird{program: path, dir: dir}, nil
		}
	}
	return bird{}, errors.New("find bird, the routing daemon of the lab's core: it is not installed; install the package bird2")
}

func (b bird) socket() string { return filepath.Join(b.dir, "bird.sock") }
func (b bird) config() string { return filepath.Join(b.dir, "bird.conf") }

func (b bird) argv() []string { return []string{b.program, "-f", "-c", b.config(), "-s", b.socket()} }

// writeConfig describes the core: static routes to the sites' networks, and internal BGP with the edges, which dial.
// What one edge announces is reflected to the other, so that an edge sees when the core prefers its peer's route. A
// silent edge is given up after nine seconds, and taken back at once when it calls again: BIRD would refuse it for a
// minute.
func (b bird) writeConfig() error {
	var text strings.Builder
	fmt.Fprintf(&text, `log stderr all;
router id 192.0.2.9;
protocol device { scan time 5; }
protocol direct { ipv4; }
protocol kernel {
	ipv4 { import none; export where source = RTS_BGP || source = RTS_STATIC; };
}
protocol static {
	ipv4;
	route 198.51.100.0/28 via 192.0.2.2;
	route 198.51.100.16/28 via 192.0.2.6;
}
`)
	for _, site := range sites {
		up, err := uplink(site)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, `protocol bgp %s {
	local %s as %d;
	neighbor %s as %d;
	passive;
	rr client;
	hold time 9;
	error wait time 1, 8;
	graceful restart aware;
	ipv4 {
		import where net ~ [ %s+ ];
		export where source = RTS_BGP;
	};
}
`, session(site), up.a.address.Addr(), asn, up.b.address.Addr(), asn, guests)
	}
	if err := os.WriteFile(b.config(), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write the configuration of bird: %w", err)
	}
	return nil
}

// session is the name of a site's BGP session in BIRD.
func session(site string) string { return site + "_edge" }

// ask sends one command to BIRD's control socket and returns the lines of the answer without their codes. Lines look
// like "2002-text", continued by " text", and end with "0000 "; codes from 8000 on are errors.
func (b bird) ask(ctx context.Context, command string) ([]string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", b.socket())
	if err != nil {
		return nil, fmt.Errorf("ask bird: %w", err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(5 * time.Second)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("ask bird: %w", err)
	}
	if _, err := fmt.Fprintln(conn, command); err != nil {
		return nil, fmt.Errorf("ask bird: %w", err)
	}
	var lines []string
	for in := bufio.NewScanner(conn); in.Scan(); {
		line := in.Text()
		switch {
		case strings.HasPrefix(line, "0001"): // the greeting
		case strings.HasPrefix(line, "0000"):
			return lines, nil
		case len(line) > 4 && (line[0] == '8' || line[0] == '9'):
			return nil, fmt.Errorf("ask bird %q: %s", command, line[5:])
		case strings.HasPrefix(line, " "):
			lines = append(lines, line[1:])
		case len(line) > 4 && line[4] == ' ': // a last line with text
			return append(lines, line[5:]), nil
		case len(line) > 4:
			lines = append(lines, line[5:])
		}
	}
	return nil, fmt.Errorf("ask bird %q: the answer broke off", command)
}

// sessions tells how the BGP sessions stand.
func (b bird) sessions(ctx context.Context) ([]BGPSession, error) {
	lines, err := b.ask(ctx, "show protocols")
	if err != nil {
		return nil, err
	}
	return parseSessions(lines), nil
}

// parseSessions reads the table of show protocols: name, protocol, table, state, since, info.
func parseSessions(lines []string) []BGPSession {
	var out []BGPSession
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) < 5 || f[1] != "BGP" {
			continue
		}
		state := f[3]
		if len(f) > 5 {
			state = strings.Join(f[5:], " ")
		}
		out = append(out, BGPSession{Name: f[0], State: state})
	}
	return out
}
