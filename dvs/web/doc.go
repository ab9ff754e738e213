// Package web lets an HTTP service and its clients that know nothing of the DVS talk through an endpoint: beside the clients
// a Client listens (it is an http.Handler) and asks the endpoint; beside the service Serve receives what the endpoint gets and asks the
// service. When the endpoint moves, requests in work end first, later ones are held and delivered at the new place, each once.
//
//	clients ── HTTP ──▶ Client ── endpoint ──▶ Serve ── HTTP ──▶ service
//
// The commands godwit dvs http serve and godwit dvs http connect are these two.
//
// The caller's duties: bind the endpoint (movable, if it is to move: with the service's own snapshot functions, or with empty ones if the
// service keeps its state elsewhere), run Serve until it returns, and give the service's port to nobody else.
//
// Limits, all answered with a status that says why: a body, in either direction, is held in memory and has at most MaxBody bytes; there is no
// upgrade of a connection (WebSocket), no CONNECT, and no answer that never ends (an event stream is cut off by the timeout). Trailers
// and informational answers are left out.
//
// A request travels as the text of HTTP/1.1, and so does its answer.
package web
