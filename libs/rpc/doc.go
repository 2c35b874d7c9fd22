// Package rpc serves and calls Connect services.
//
// A Server has one port for everything: Connect and gRPC (HTTP/1.1, HTTP/2 with
// and without TLS), grpc.health.v1, reflection, /healthz, /readyz and /metrics.
// gRPC-Web and CORS are off until asked for. The same server listens in memory
// (Listener), where clients of the same process reach it over the same protocol.
//
// Domain errors cross services: handlers return errors of libs/clara, an
// interceptor gives them a Connect code and logs them once, and clients made
// with Dial turn the code back into the kind, retry hint included. Errors
// without a kind reach callers as "internal error" and a trace id only.
//
// A server without tokens and without TLS listens on loopback only, unless it
// is told that this is meant. Tokens are kept as SHA-256 and name the
// collections they are good for; the collection is found in the request.
package rpc
