// Package openai answers the chat interface that existing clients speak:
// POST /v1/chat/completions and GET /v1/models.
//
// The model of a request names what answers. A collection ("handbook" or
// "collections/handbook") answers the last message of the user from its
// documents; earlier messages are not read, so a question has to stand by
// itself. A model package ("models/smollm2-135m", or its bare name where no
// collection has it) continues the conversation as the plain base model.
//
// Answers are greedy unless a temperature is given. Where an answer comes from
// is in the extension field clara of the response (of the first chunk in a
// stream), never in its text. A request may hold {"clara": {"context": ..,
// "retrieve": .., "top_k": ..}}.
//
// response_format holds the answer to JSON: json_object to any object, json_schema
// to a schema (libs/grammar says which keywords are done).
package openai

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/rpc"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	modelv1 "github.com/clara-suite/clara/proto/gen/clara/model/v1"
	"github.com/clara-suite/clara/proto/gen/clara/model/v1/modelv1connect"
	"github.com/clara-suite/clara/services/generator/internal/answer"
)

const (
	// maxBody bounds a request.
	maxBody = 16 << 20
	// chatTokens is the length of an answer of a plain model where the request gives none.
	chatTokens = 512
	// listPage is how many entries a page of a listing asks for.
	listPage = 500
)

// Handler serves the interface. Safe for concurrent use.
type Handler struct {
	Log      *slog.Logger
	Answerer *answer.Answerer
	Ingest   ingestv1connect.IngestServiceClient
	Registry modelv1connect.ModelServiceClient
}

// Mount adds the routes to a server.
func (h *Handler) Mount(srv *rpc.Server) {
	srv.HandleHTTP("POST /v1/chat/completions", http.HandlerFunc(h.chat), false)
	srv.HandleHTTP("GET /v1/models", http.HandlerFunc(h.list), false)
	srv.HandleHTTP("GET /v1/models/{id...}", http.HandlerFunc(h.get), false)
}

func (h *Handler) chat(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	var r chatRequest
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		h.fail(ctx, w, clara.Errorf(clara.Invalid, "read request: %w", err))
		return
	}
	if err := read(body, &r); err != nil {
		h.fail(ctx, w, err)
		return
	}
	if err := r.check(); err != nil {
		h.fail(ctx, w, err)
		return
	}
	t, err := h.target(ctx, r.Model)
	if err != nil {
		h.fail(ctx, w, err)
		return
	}
	out := &reply{w: w, id: "chatcmpl-" + uuid.NewString(), model: r.Model, created: time.Now().Unix(), stream: r.Stream}
	out.usage = r.StreamOptions != nil && r.StreamOptions.IncludeUsage
	if err := h.answer(ctx, t, &r, out.part); err != nil {
		if out.begun {
			out.abort(h.describe(ctx, err))
			return
		}
		h.fail(ctx, w, err)
	}
}

// answer has the request answered by a collection or a model.
func (h *Handler) answer(ctx context.Context, t target, r *chatRequest, send answer.Part) error {
	schema, err := r.ResponseFormat.schema()
	if err != nil {
		return err
	}
	ask := &generatorv1.AnswerRequest{Sampling: r.sampling(), JsonSchema: schema}
	if t.collection == "" {
		ask.Model, ask.Messages, ask.Context, ask.MaxTokens = t.model, r.conversation(), generatorv1.Context_CONTEXT_NONE, r.limit(chatTokens)
	} else {
		if ask.Question, err = r.question(); err != nil {
			return err
		}
		ask.Collection, ask.Context, ask.Retrieve, ask.TopK, ask.MaxTokens = t.collection, contexts[r.Clara.Context], modes[r.Clara.Retrieve], r.Clara.TopK, r.limit(0)
	}
	return h.Answerer.Answer(ctx, ask, send)
}

// target is what a model name of a request stands for: one of the two, as resource names.
type target struct {
	collection, model string
	created           int64
}

// target finds it. What the caller may not use does not exist for it.
func (h *Handler) target(ctx context.Context, name string) (target, error) {
	caller := rpc.CallerOf(ctx)
	id, isCollection := strings.CutPrefix(name, "collections/")
	_, isModel := strings.CutPrefix(name, "models/")
	if !isModel && caller.May(id) {
		c, err := h.Ingest.GetCollection(ctx, &ingestv1.GetCollectionRequest{Name: "collections/" + id})
		if err == nil {
			return target{collection: c.Name, created: c.CreateTime.GetSeconds()}, nil
		}
		if kind := clara.KindOf(err); kind != clara.NotFound && kind != clara.Invalid {
			return target{}, err
		}
	}
	if !isCollection && caller.May("") {
		m, err := h.Registry.GetModel(ctx, &modelv1.GetModelRequest{Name: "models/" + strings.TrimPrefix(name, "models/")})
		if err == nil {
			return target{model: m.Name, created: m.CreateTime.GetSeconds()}, nil
		}
		if kind := clara.KindOf(err); kind != clara.NotFound && kind != clara.Invalid {
			return target{}, err
		}
	}
	return target{}, &paramError{"model", clara.Errorf(clara.NotFound, "no collection or model %q; GET /v1/models lists them", name)}
}

// entry is a model in a listing.
type entry struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

const owner = "clara"

// list shows the collections that the caller may use, and the models if it may use all.
func (h *Handler) list(w http.ResponseWriter, req *http.Request) {
	ctx, caller := req.Context(), rpc.CallerOf(req.Context())
	entries := []entry{}
	for token := ""; ; {
		page, err := h.Ingest.ListCollections(ctx, &ingestv1.ListCollectionsRequest{PageSize: listPage, PageToken: token})
		if err != nil {
			h.fail(ctx, w, err)
			return
		}
		for _, c := range page.Collections {
			if id := strings.TrimPrefix(c.Name, "collections/"); caller.May(id) {
				entries = append(entries, entry{id, "model", c.CreateTime.GetSeconds(), owner})
			}
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	for token := ""; caller.May(""); {
		page, err := h.Registry.ListModels(ctx, &modelv1.ListModelsRequest{PageSize: listPage, PageToken: token})
		if err != nil {
			h.fail(ctx, w, err)
			return
		}
		for _, m := range page.Models {
			entries = append(entries, entry{m.Name, "model", m.CreateTime.GetSeconds(), owner})
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": entries})
}

func (h *Handler) get(w http.ResponseWriter, req *http.Request) {
	name := req.PathValue("id")
	t, err := h.target(req.Context(), name)
	if err != nil {
		h.fail(req.Context(), w, err)
		return
	}
	writeJSON(w, http.StatusOK, entry{name, "model", t.created, owner})
}

// paramError says which parameter is at fault.
type paramError struct {
	param string
	err   error
}

func (e *paramError) Error() string { return e.err.Error() }
func (e *paramError) Unwrap() error { return e.err }

// fault is an error as the interface shows it.
type fault struct {
	status int
	after  time.Duration

	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

// describe turns a domain error into one of the interface and logs it. What has no kind is hidden behind the id of
// its trace.
func (h *Handler) describe(ctx context.Context, err error) fault {
	f := fault{Message: err.Error(), Type: "invalid_request_error", after: clara.RetryAfter(err)}
	code := ""
	switch clara.KindOf(err) {
	case clara.Invalid:
		f.status = http.StatusBadRequest
	case clara.Unsupported:
		f.status, code = http.StatusBadRequest, "unsupported"
	case clara.NotFound:
		f.status, code = http.StatusNotFound, "model_not_found"
	case clara.State, clara.Conflict, clara.Exists:
		// Not 409: clients repeat that at once.
		f.status, code = http.StatusUnprocessableEntity, "failed_precondition"
	case clara.Denied:
		f.status, f.Type = http.StatusForbidden, "permission_error"
	case clara.Unauthenticated:
		f.status, f.Type = http.StatusUnauthorized, "authentication_error"
	case clara.Busy:
		f.status, f.Type, code = http.StatusTooManyRequests, "rate_limit_error", "busy"
	case clara.Unavailable:
		f.status, f.Type, code = http.StatusServiceUnavailable, "server_error", "unavailable"
	default:
		f.status, f.Type, code = http.StatusInternalServerError, "server_error", "internal_error"
		f.Message = "internal error"
		if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
			f.Message += ", trace " + sc.TraceID().String()
		}
	}
	if code != "" {
		f.Code = &code
	}
	var p *paramError
	if errors.As(err, &p) {
		f.Param = &p.param
	}
	level := slog.LevelInfo
	if f.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	if ctx.Err() == nil { // else nobody is there to see it
		h.Log.Log(ctx, level, "chat failed", "status", f.status, "err", err)
	}
	return f
}

func (h *Handler) fail(ctx context.Context, w http.ResponseWriter, err error) {
	f := h.describe(ctx, err)
	if f.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.after.Seconds()))))
	}
	writeJSON(w, f.status, map[string]any{"error": f})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that is gone reads nothing
}
