package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"connectrpc.com/connect"
	"github.com/zeebo/blake3"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	// BlobPath is where a controller serves blobs: HEAD, PUT and GET of BlobPath followed by the blob's name.
	BlobPath = "/blobs/"
	// blobPrefix begins every blob's name; the rest is the BLAKE3 hash of its content, 64 hexadecimal digits.
	blobPrefix = "b3-"
	// maxErrorBody bounds how much of a server's refusal is read.
	maxErrorBody = 4 << 10
)

// Progress is told how many bytes of how many have been sent.
type Progress func(done, total int64)

// BlobHash computes blob names: write the content, then ask for the Name.
type BlobHash struct{ hash *blake3.Hasher }

// NewBlobHash returns one that has seen nothing.
func NewBlobHash() *BlobHash { return &BlobHash{hash: blake3.New()} }

// Write takes content; it never fails.
func (h *BlobHash) Write(p []byte) (int, error) { return h.hash.Write(p) }

// Name is the name of what was written so far.
func (h *BlobHash) Name() string { return blobPrefix + hex.EncodeToString(h.hash.Sum(nil)) }

// IsBlobName says whether name could be a blob's; servers must check it before they use it as a file's name.
func IsBlobName(name string) bool {
	digits, ok := strings.CutPrefix(name, blobPrefix)
	if !ok || len(digits) != 64 {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// Upload makes sure that the controller has the content of the file at path, and returns the blob's name. Progress may be
// nil; it is not called when the controller has it already.
func (c *Client) Upload(ctx context.Context, path string, progress Progress) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fileError(path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", fileError(path, err)
	}
	if !info.Mode().IsRegular() {
		return "", &Error{Op: "upload " + path, Message: "is not a file", Code: connect.CodeInvalidArgument}
	}
	hash := NewBlobHash()
	size, err := io.Copy(hash, &cancellable{ctx: ctx, from: file})
	if err != nil {
		return "", fmt.Errorf("upload %s: %w", path, err)
	}
	name := hash.Name()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return "", fileError(path, err)
	}
	return name, c.put(ctx, "upload "+path, name, file, size, progress)
}

// UploadFiles uploads the files that a manifest's service names (kernel, initrd, images) and replaces them by their blobs'
// names; names of blobs stay. Progress is told the path beside the bytes.
func (c *Client) UploadFiles(ctx context.Context, spec *godwitv1.ServiceSpec, progress func(path string, done, total int64)) error {
	var fields []*string
	if server := spec.GetServer(); server != nil {
		fields = append(fields, &server.Kernel, &server.Initrd)
	}
	for _, volume := range spec.GetVolumes() {
		fields = append(fields, &volume.Image)
	}
	for _, field := range fields {
		path := *field
		if path == "" || IsBlobName(path) {
			continue
		}
		var report Progress
		if progress != nil {
			report = func(done, total int64) { progress(path, done, total) }
		}
		name, err := c.Upload(ctx, path, report)
		if err != nil {
			return err
		}
		*field = name
	}
	return nil
}

// Download writes the blob to w and checks that it is what its name says; after an error, what w has got is to be thrown
// away.
func (c *Client) Download(ctx context.Context, name string, w io.Writer) error {
	op := "download " + name
	if !IsBlobName(name) {
		return &Error{Op: op, Message: "is not a blob's name", Code: connect.CodeInvalidArgument}
	}
	answer, err := c.request(ctx, op, http.MethodGet, name, nil, 0)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	hash := NewBlobHash()
	if _, err := io.Copy(io.MultiWriter(w, hash), answer.Body); err != nil {
		return c.explain(ctx, op, err)
	}
	if got := hash.Name(); got != name {
		return &Error{Op: op, Message: "the content does not match the name: it is " + got, Code: connect.CodeDataLoss}
	}
	return nil
}

func (c *Client) put(ctx context.Context, op, name string, content io.Reader, size int64, progress Progress) error {
	answer, err := c.request(ctx, op, http.MethodHead, name, nil, 0)
	if err == nil {
		return answer.Body.Close()
	}
	if !NotFound(err) {
		return err
	}
	body := &counted{from: content, total: size, progress: progress}
	answer, err = c.request(ctx, op, http.MethodPut, name, body, size)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// request does one exchange about a blob; any status but 2xx is an *Error.
func (c *Client) request(ctx context.Context, op, method, name string, body io.Reader, size int64) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.baseURL+BlobPath+name, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if body != nil {
		request.ContentLength = size
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(ctx, op, err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxErrorBody))
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		text = append(text, err.Error()...)
	}
	out := &Error{Op: op, Code: statusCode(answer.StatusCode)}
	out.Message, out.Hint = splitHints(string(text))
	if out.Message == "" {
		out.Message = "the controller answered " + answer.Status
	}
	return nil, out
}

func statusCode(status int) connect.Code {
	switch status {
	case http.StatusNotFound:
		return connect.CodeNotFound
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return connect.CodeInvalidArgument
	case http.StatusUnauthorized:
		return connect.CodeUnauthenticated
	case http.StatusForbidden:
		return connect.CodePermissionDenied
	case http.StatusInsufficientStorage, http.StatusRequestEntityTooLarge:
		return connect.CodeResourceExhausted
	case http.StatusServiceUnavailable:
		return connect.CodeUnavailable
	default:
		return connect.CodeInternal
	}
}

func fileError(path string, err error) error {
	cause := &os.PathError{}
	message := err.Error()
	if errors.As(err, &cause) {
		message = cause.Err.Error()
	}
	out := &Error{Op: "upload " + path, Message: message, Code: connect.CodeInvalidArgument, Err: err}
	if errors.Is(err, os.ErrNotExist) {
		out.Hint = "paths in a manifest are relative to the manifest's own directory"
	}
	return out
}

// counted reports how much has been read of it.
type counted struct {
	from        io.Reader
	done, total int64
	progress    Progress
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.done += int64(n)
	if c.progress != nil && n > 0 {
		c.progress(c.done, c.total)
	}
	return n, err
}

// cancellable ends a long read of a file with the context.
type cancellable struct {
	ctx  context.Context
	from io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.from.Read(p)
}
