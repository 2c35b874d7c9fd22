package clara

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kind says what class of fault an error is. Interceptors map it to an RPC
// code and event consumers to an acknowledgement; nothing else looks at it.
type Kind uint8

const (
	// Internal is any fault without a kind: callers see only a trace id.
	Internal Kind = iota
	// Invalid is input that can never work as given.
	Invalid
	// NotFound is a named thing that does not exist.
	NotFound
	// Exists is a thing to be created that already exists.
	Exists
	// State is a system not in the state the call needs (model not loaded, wrong m or H).
	State
	// Conflict is a lost race or work already under way.
	Conflict
	// Busy is a full queue: retry after Error.RetryAfter.
	Busy
	// Unavailable is a peer that cannot be reached at present.
	Unavailable
	// Unsupported is a valid request for something this build or model does not do.
	Unsupported
	// Corrupt is stored data that does not read back as written.
	Corrupt
	// Denied is a caller without the right to what it asks for.
	Denied
	// Unauthenticated is a caller without a valid token.
	Unauthenticated
)

var kindNames = [...]string{
	Internal: "internal", Invalid: "invalid", NotFound: "not found", Exists: "exists", State: "state",
	Conflict: "conflict", Busy: "busy", Unavailable: "unavailable", Unsupported: "unsupported",
	Corrupt: "corrupt", Denied: "denied", Unauthenticated: "unauthenticated",
}

// String returns the kind's name in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Error is an error with a kind. Its text never repeats the kind.
type Error struct {
	Kind Kind
	Err  error
	// RetryAfter is when a Busy or Unavailable call is worth repeating; 0 says nothing.
	RetryAfter time.Duration
}

// Error returns the text of the wrapped error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of the kind. The text says what was tried, in lower
// case, names the thing and the place, and ends with the way out if there is one.
// Verbs are those of fmt.Errorf, %w included.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// BusyError makes a Busy error that carries a retry hint.
func BusyError(after time.Duration, format string, args ...any) error {
	return &Error{Kind: Busy, Err: fmt.Errorf(format, args...), RetryAfter: after}
}

// KindOf returns the kind of the outermost *Error in err's chain, Internal if there is none.
// A context that ended is not a kind: see IsContext.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// RetryAfter returns the hint of the outermost *Error in err's chain.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// IsContext reports whether err is a cancelled context or a passed deadline.
func IsContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// Waits reports whether err is of a kind that passes by itself or with somebody's help: the call is worth repeating.
func Waits(err error) bool {
	switch KindOf(err) {
	case State, Conflict, Busy, Unavailable:
		return true
	}
	return false
}
