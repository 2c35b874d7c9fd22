// Package llm talks to language models over the OpenAI-compatible API: chat, with
// pictures and structured output, and embeddings.
//
// A Client is one endpoint. It keeps to the endpoint's limits (requests and tokens
// per minute, Retry-After), finds out how many requests at once the endpoint takes,
// retries what is worth retrying (connections, time-outs, 408, 429, 5xx) with
// exponential back-off, and learns which form of structured output the endpoint
// has: JSON schema, else JSON mode, else plain text.
//
// A Meter counts requests, tokens and cost, and holds a budget: a request that might
// exceed it is not sent.
//
// Addresses: what is not public is refused when the connection is made, after name
// resolution, unless the Endpoint allows it; redirects to another host are not
// followed. Keys are in no error, log line or printed Endpoint.
//
// Errors: Denied (key refused, names the setting), NotFound (no such model or path,
// names the setting), Invalid (the endpoint refused the request), State (budget or
// quota spent, address not allowed), Unavailable (unreachable or still failing after
// all tries), Corrupt (an answer that is not of the API). Safe for concurrent use.
package llm
