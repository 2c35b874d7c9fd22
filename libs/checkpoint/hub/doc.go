// Package hub finds models of the Hugging Face hub: in the local cache that
// the hub's own tools keep (HF_HUB_CACHE, HF_HOME), else by downloading them
// into that cache's layout.
//
// A download takes config, tokenizer and safetensors files only, never code or
// pickles; it resumes, checks sizes and SHA-256 sums, and a snapshot becomes
// visible when it is complete. HF_ENDPOINT names another server, HF_TOKEN is
// sent to it and to no other host, HF_HUB_OFFLINE=1 keeps from asking.
//
// Errors: Invalid (not a hub id), NotFound (no such model there), Denied
// (gated), Unavailable (server not reached), Corrupt (sums differ). A Client
// is safe for concurrent use on different models.
package hub
