package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	// TransferPath is where a controller passes streams on: an agent's PUT to a user's GET of TransferPath followed by a name, and what
	// the user says to the agent too if the user POSTs.
	TransferPath = "/transfers/"
	transferName = 32
)

// IsTransferName says whether the text can name a transfer.
func IsTransferName(name string) bool {
	_, err := hex.DecodeString(name)
	return err == nil && len(name) == transferName
}

func newTransferName() string {
	name := make([]byte, transferName/2)
	_, _ = rand.Read(name) // never fails
	return hex.EncodeToString(name)
}

// ExportVolume writes the content of a volume to w: as it was at the task's snapshot, or at a consistent point of now. After an
// error, what w has got is to be thrown away. told is as for RunVolumeTask.
func (c *Client) ExportVolume(ctx context.Context, task *godwitv1.VolumeTask, w io.Writer, told func(done, total int64)) (*godwitv1.VolumeResult, error) {
	task.Verb, task.Transfer = godwitv1.VolumeVerb_VOLUME_VERB_EXPORT, newTransferName()
	receiving, cancel := context.WithCancel(ctx)
	defer cancel()
	type received struct {
		bytes int64
		err   error
	}
	done := make(chan received, 1)
	go func() {
		n, err := c.receive(receiving, task.GetTransfer(), w)
		done <- received{n, err}
	}()
	result, err := c.RunVolumeTask(ctx, task, told)
	if err != nil {
		cancel()
		<-done
		return nil, err
	}
	got := <-done
	op := "export volume " + task.GetService() + "/" + task.GetVolume()
	switch {
	case got.err != nil:
		return nil, c.explain(ctx, op, got.err)
	case got.bytes != result.GetSize():
		return nil, &Error{Op: op, Message: fmt.Sprintf("%d bytes came, of %d", got.bytes, result.GetSize()), Code: connect.CodeDataLoss, Hint: "try again"}
	}
	return result, nil
}

// receive takes a transfer that an agent sends.
func (c *Client) receive(ctx context.Context, name string, w io.Writer) (int64, error) {
	content, err := c.transfer(ctx, http.MethodGet, name, nil)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	z, err := zstd.NewReader(content)
	if err != nil {
		return 0, err
	}
	defer z.Close()
	return io.Copy(w, z)
}

// transfer is the user's end of one: what is said, and what comes. The caller closes it.
func (c *Client) transfer(ctx context.Context, method, name string, said io.Reader) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.baseURL+TransferPath+name, said)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the controller answered %s", answer.Status), answer.Body.Close())
	}
	return answer.Body, nil
}

// OpenSnapshot connects an NBD client with a volume as it was at the task's snapshot, for reading. It returns when either has closed the
// connection, and closes it.
func (c *Client) OpenSnapshot(ctx context.Context, task *godwitv1.VolumeTask, client net.Conn) error {
	task.Verb, task.Transfer = godwitv1.VolumeVerb_VOLUME_VERB_OPEN, newTransferName()
	open, cancel := context.WithCancel(ctx)
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		defer client.Close() // so that nobody reads from it any more either
		answers, err := c.transfer(open, http.MethodPost, task.GetTransfer(), io.NopCloser(client))
		if err != nil {
			return // the task says what is wrong
		}
		_, _ = io.Copy(client, answers) // the client has gone, or the host has
		_ = answers.Close()
	}()
	_, err := c.RunVolumeTask(ctx, task, nil)
	cancel()
	<-passed
	return err
}
