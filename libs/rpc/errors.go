package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/clara-suite/clara/libs/clara"
)

// retryAfterHeader carries the retry hint in whole seconds, for clients that do not read details.
const retryAfterHeader = "Retry-After"

// Code returns the Connect code of an error: that of its kind, of its context, or of the Connect error it is.
func Code(err error) connect.Code {
	var domain *clara.Error
	if errors.As(err, &domain) {
		switch domain.Kind {
		case clara.Invalid:
			return connect.CodeInvalidArgument
		case clara.NotFound:
			return connect.CodeNotFound
		case clara.Exists:
			return connect.CodeAlreadyExists
		case clara.State:
			return connect.CodeFailedPrecondition
		case clara.Conflict:
			return connect.CodeAborted
		case clara.Busy:
			return connect.CodeResourceExhausted
		case clara.Unavailable:
			return connect.CodeUnavailable
		case clara.Unsupported:
			return connect.CodeUnimplemented
		case clara.Corrupt:
			return connect.CodeDataLoss
		case clara.Denied:
			return connect.CodePermissionDenied
		case clara.Unauthenticated:
			return connect.CodeUnauthenticated
		case clara.Internal:
			return connect.CodeInternal
		}
	}
	var wire *connect.Error
	if errors.As(err, &wire) {
		return wire.Code()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeInternal
}

// kindOf is the way back: the kind of a code. Codes that are a context's end have none.
func kindOf(code connect.Code) clara.Kind {
	switch code {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return clara.Invalid
	case connect.CodeNotFound:
		return clara.NotFound
	case connect.CodeAlreadyExists:
		return clara.Exists
	case connect.CodeFailedPrecondition:
		return clara.State
	case connect.CodeAborted:
		return clara.Conflict
	case connect.CodeResourceExhausted:
		return clara.Busy
	case connect.CodeUnavailable:
		return clara.Unavailable
	case connect.CodeUnimplemented:
		return clara.Unsupported
	case connect.CodeDataLoss:
		return clara.Corrupt
	case connect.CodePermissionDenied:
		return clara.Denied
	case connect.CodeUnauthenticated:
		return clara.Unauthenticated
	}
	return clara.Internal
}

// toWire makes the error that a caller sees. What has no kind is hidden behind the id of its trace.
func toWire(ctx context.Context, err error) *connect.Error {
	var domain *clara.Error
	var wire *connect.Error
	hasKind := errors.As(err, &domain) && domain.Kind != clara.Internal
	if !hasKind && errors.As(err, &wire) && wire.Code() != connect.CodeInternal && wire.Code() != connect.CodeUnknown {
		return wire // made by connect itself: limits, unknown methods, bad messages
	}
	code := Code(err)
	if !hasKind && code == connect.CodeInternal {
		text := "internal error"
		if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
			text += ", trace " + sc.TraceID().String()
		}
		return connect.NewError(code, errors.New(text))
	}
	out := connect.NewError(code, errors.New(err.Error()))
	if after := clara.RetryAfter(err); after > 0 {
		out.Meta().Set(retryAfterHeader, strconv.Itoa(int(math.Ceil(after.Seconds()))))
		if detail, derr := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); derr == nil {
			out.AddDetail(detail)
		}
	}
	return out
}

// fromWire turns what a call returned into a domain error. ctx is the call's.
func fromWire(ctx context.Context, err error) error {
	var wire *connect.Error
	if err == nil || errors.Is(err, io.EOF) || !errors.As(err, &wire) {
		return err
	}
	if wire.Code() == connect.CodeCanceled && ctx.Err() == nil && !connect.IsWireError(err) {
		// The connection broke and took its own context along; nobody cancelled the call.
		return &clara.Error{Kind: clara.Unavailable, Err: &remoteError{wire}}
	}
	if broken(err, wire) {
		return clara.Errorf(clara.Unavailable, "the connection broke before the answer was whole: %w", &remoteError{wire})
	}
	switch wire.Code() {
	case connect.CodeCanceled:
		return fmt.Errorf("%s: %w", wire.Message(), context.Canceled)
	case connect.CodeDeadlineExceeded:
		return fmt.Errorf("%s: %w", wire.Message(), context.DeadlineExceeded)
	}
	return &clara.Error{Kind: kindOf(wire.Code()), Err: &remoteError{wire}, RetryAfter: retryAfter(wire)}
}

// broken reports whether a call ended because its connection did: a server that dies says nothing, and what this side
// makes of the silence has no code of its own.
func broken(err error, wire *connect.Error) bool {
	switch {
	case connect.IsWireError(err):
		return false // a server said so
	case wire.Code() == connect.CodeUnknown:
		return true // net/http's words for a connection
	}
	return wire.Code() == connect.CodeInternal && (errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(wire.Message(), "incomplete envelope"))
}

// remoteError shows the text of a Connect error without its code, and still unwraps to it.
type remoteError struct{ wire *connect.Error }

func (e *remoteError) Error() string {
	if e.wire.Message() == "" {
		return e.wire.Code().String()
	}
	return e.wire.Message()
}

func (e *remoteError) Unwrap() error { return e.wire }

// retryAfter reads the retry hint from the details or else from the header.
func retryAfter(wire *connect.Error) time.Duration {
	for _, d := range wire.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*errdetails.RetryInfo); ok {
				return info.GetRetryDelay().AsDuration()
			}
		}
	}
	if s, err := strconv.Atoi(wire.Meta().Get(retryAfterHeader)); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	return 0
}

// serverErrors is the interceptor that maps what handlers return and logs it once.
type serverErrors struct{ log *slog.Logger }

func (s serverErrors) finish(ctx context.Context, procedure string, begin time.Time, err error) error {
	if err == nil {
		s.log.DebugContext(ctx, "rpc served", "procedure", procedure, "took", time.Since(begin))
		return nil
	}
	out := toWire(ctx, err)
	// What a caller got wrong is the caller's to know: services ask each other for things that may not be there.
	level := slog.LevelWarn
	switch out.Code() {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss:
		level = slog.LevelError
	case connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeCanceled, connect.CodeUnimplemented:
		level = slog.LevelDebug
	}
	s.log.Log(ctx, level, "rpc failed", "procedure", procedure, "code", out.Code().String(), "took", time.Since(begin), "err", err)
	return out
}

// WrapUnary maps the error of a unary handler.
func (s serverErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		begin := time.Now()
		res, err := next(ctx, req)
		if err := s.finish(ctx, req.Spec().Procedure, begin, err); err != nil {
			return nil, err
		}
		return res, nil
	}
}

// WrapStreamingClient leaves clients alone.
func (s serverErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler maps the error of a streaming handler.
func (s serverErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		begin := time.Now()
		return s.finish(ctx, conn.Spec().Procedure, begin, next(ctx, conn))
	}
}

// clientErrors is the interceptor that turns codes back into kinds and bounds calls without a deadline.
type clientErrors struct{ timeout time.Duration }

// WrapUnary maps the error of a unary call.
func (c clientErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if _, ok := ctx.Deadline(); !ok && c.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.timeout)
			defer cancel()
		}
		res, err := next(ctx, req)
		return res, fromWire(ctx, err)
	}
}

// WrapStreamingClient maps the errors of a stream.
func (c clientErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return clientStream{next(ctx, spec), ctx}
	}
}

// WrapStreamingHandler leaves handlers alone.
func (c clientErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

type clientStream struct {
	connect.StreamingClientConn
	ctx context.Context // of the call
}

func (s clientStream) Send(msg any) error { return fromWire(s.ctx, s.StreamingClientConn.Send(msg)) }

func (s clientStream) Receive(msg any) error {
	return fromWire(s.ctx, s.StreamingClientConn.Receive(msg))
}

func (s clientStream) CloseRequest() error {
	return fromWire(s.ctx, s.StreamingClientConn.CloseRequest())
}

func (s clientStream) CloseResponse() error {
	return fromWire(s.ctx, s.StreamingClientConn.CloseResponse())
}

// recovered is what a panic in a handler becomes: logged with its stack by finish, hidden from callers.
func recovered(log *slog.Logger) func(context.Context, connect.Spec, http.Header, any) error {
	return func(ctx context.Context, spec connect.Spec, _ http.Header, value any) error {
		log.ErrorContext(ctx, "handler panicked", "procedure", spec.Procedure, "panic", fmt.Sprint(value), "stack", stack())
		return clara.Errorf(clara.Internal, "panic in %s: %v", spec.Procedure, value)
	}
}
