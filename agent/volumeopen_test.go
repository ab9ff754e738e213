package agent

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

// client is an NBD client of the old kind, at the other end of a transfer.
type client struct {
	t    *testing.T
	says io.Writer
	http *http.ResponseController
	in   io.Reader
}

func (c client) say(b []byte) {
	if _, err := c.says.Write(b); err != nil {
		c.t.Error(err)
	}
	if err := c.http.Flush(); err != nil {
		c.t.Error(err)
	}
}

func (c client) hear(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Error(err)
	}
	return b
}

// request is what the protocol's document says, for up to 64 KiB at the beginning of the disk.
func request(command, length uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x25609513)
	b = binary.BigEndian.AppendUint32(b, uint32(command))
	b = append(b, make([]byte, 18)...)
	return binary.BigEndian.AppendUint16(b, length)
}

func TestASnapshotIsOpenedAndReadFromAfar(t *testing.T) {
	const (
		read, write, goodbye = 0, 1, 2
		header, notPermitted = 16, 1
	)
	p := newPair(t)
	content := random(1 << 20)
	p.fill(content)
	p.protected(p.here, p.there, 5)
	p.here.does(&pb.VolumeTask{Verb: snapshot, Snapshot: "then", KeepSeconds: 60})
	p.there.kept("then")
	for _, polite := range []bool{true, false} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := client{t, w, http.NewResponseController(w), r.Body}
			if hello := c.hear(18); !bytes.HasPrefix(hello, []byte("NBDMAGICIHAVEOPT")) {
				t.Errorf("the greeting is %q", hello)
			}
			c.say([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00")) // the export, without the 124 zeroes
			if size := binary.BigEndian.Uint64(c.hear(10)); size != volumeSize {
				t.Errorf("it has %d bytes", size)
			}
			c.say(request(read, 4096))
			if got := c.hear(header + 4096)[header:]; !bytes.Equal(got, content[:4096]) {
				t.Error("another content")
			}
			c.say(append(request(write, 512), make([]byte, 512)...))
			if got := c.hear(header); got[7] != notPermitted {
				t.Errorf("a write is answered with %d", got[7])
			}
			if polite {
				c.say(request(goodbye, 0))
				if rest, err := io.ReadAll(c.in); len(rest) > 0 || err != nil {
					t.Errorf("after goodbye: %q, %v", rest, err)
				}
			}
		}))
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		transport := &http.Transport{Protocols: server.Config.Protocols}
		p.there.link = &controller{base: server.URL, client: &http.Client{Transport: transport}}
		task := &pb.VolumeTask{Verb: pb.VolumeVerb_VOLUME_VERB_OPEN, Volume: "log", Snapshot: "then", Transfer: strings.Repeat("ab", 16)}
		if r := p.there.does(task); r.GetSize() != volumeSize || !r.GetConsistent() {
			t.Errorf("it was %v", r)
		}
		transport.CloseIdleConnections()
		server.Close()
	}
	p.there.refuses(&pb.VolumeTask{Verb: pb.VolumeVerb_VOLUME_VERB_OPEN, Volume: "log", Snapshot: "never"}, "no such cut")
	p.there.does(&pb.VolumeTask{Verb: unsnapshot, Snapshot: "then"}) // nobody holds it
}
