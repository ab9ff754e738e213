package web

import (
	"bufio"
	"bytes"
	"net/http"
	"net/url"
)

// encodeRequest writes a request that a server received as one that a client makes.
func encodeRequest(r *http.Request, body []byte) ([]byte, error) {
	header := r.Header.Clone()
	removeHops(header)
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = nil // so that none is made up
	}
	out := &http.Request{
		Method: r.Method, Host: r.Host, Header: header, ContentLength: int64(len(body)), Body: http.NoBody,
		URL: &url.URL{Scheme: "http", Host: "endpoint", Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery, ForceQuery: r.URL.ForceQuery},
	}
	if len(body) > 0 {
		out.Body = reader(body)
	}
	var b bytes.Buffer
	err := out.Write(&b)
	return b.Bytes(), err
}

// decodeRequest reads what encodeRequest wrote, for a service at that address.
func decodeRequest(payload []byte, host string) (*http.Request, error) {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(payload)))
	if err != nil {
		return nil, err
	}
	removeHops(r.Header)
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host = "http", host
	if _, ok := r.Header["User-Agent"]; !ok {
		r.Header["User-Agent"] = nil
	}
	return r, nil
}

// encodeResponse writes a service's answer with that body.
func encodeResponse(resp *http.Response, body []byte) ([]byte, error) {
	removeHops(resp.Header)
	resp.TransferEncoding, resp.Trailer, resp.Close = nil, nil, false
	resp.Proto, resp.ProtoMajor, resp.ProtoMinor = "HTTP/1.1", 1, 1
	if resp.Request == nil || resp.Request.Method != http.MethodHead {
		resp.ContentLength = int64(len(body))
	}
	resp.Body = reader(body)
	var b bytes.Buffer
	err := resp.Write(&b)
	return b.Bytes(), err
}

// decodeResponse reads what encodeResponse wrote, as the answer to a request.
func decodeResponse(payload []byte, r *http.Request) (*http.Response, error) {
	return http.ReadResponse(bufio.NewReader(bytes.NewReader(payload)), r)
}
