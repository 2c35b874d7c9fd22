package rpc

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"os"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/clara-suite/clara/libs/clara"
)

// AllCollections in a token's scope stands for every collection, and for what belongs to none.
const AllCollections = "*"

// Token is what a server keeps of a bearer token.
type Token struct {
	Hash        [sha256.Size]byte
	Collections []string // ids, or AllCollections
	Name        string   // for logs
}

// NewToken makes a token: the secret to hand out, and what the server keeps of it.
func NewToken(name string, collections ...string) (secret string, token Token) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	secret = "clara_" + base64.RawURLEncoding.EncodeToString(raw)
	return secret, Token{Hash: sha256.Sum256([]byte(secret)), Collections: collections, Name: name}
}

// Line returns the token as a line of a token file.
func (t Token) Line() string {
	return strings.TrimSpace(hex.EncodeToString(t.Hash[:]) + " " + strings.Join(t.Collections, ",") + " " + t.Name)
}

// ReadTokens reads a token file: lines "SHA256-HEX COLLECTION[,COLLECTION..] [NAME]", * for all
// collections, # for comments. Faults are Invalid and name file and line.
func ReadTokens(path string) ([]Token, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "read token file: %w", err)
	}
	defer func() { _ = f.Close() }()
	var tokens []Token
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		hash, err := hex.DecodeString(fields[0])
		if err != nil || len(hash) != sha256.Size {
			return nil, clara.Errorf(clara.Invalid, "%s:%d: the first word must be the SHA-256 of a token, 64 hex digits (never the token itself)", path, n)
		}
		if len(fields) < 2 {
			return nil, clara.Errorf(clara.Invalid, "%s:%d: the second word must name collections, or * for all", path, n)
		}
		t := Token{Collections: strings.Split(fields[1], ","), Name: strings.Join(fields[2:], " ")}
		copy(t.Hash[:], hash)
		tokens = append(tokens, t)
	}
	if err := lines.Err(); err != nil {
		return nil, clara.Errorf(clara.Invalid, "read token file %s: %w", path, err)
	}
	if len(tokens) == 0 {
		return nil, clara.Errorf(clara.Invalid, "token file %s holds no token", path)
	}
	return tokens, nil
}

// Caller is who makes a call.
type Caller struct {
	Name        string
	Collections []string
}

// May reports whether the caller may use the collection. "" asks for what belongs to no collection.
func (c Caller) May(collection string) bool {
	return slices.Contains(c.Collections, AllCollections) || collection != "" && slices.Contains(c.Collections, collection)
}

type callerKey struct{}

// CallerOf returns who makes the call that ctx belongs to. Without authentication, and inside the
// process, that is someone who may use everything.
func CallerOf(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Collections: []string{AllCollections}}
}

// authorize is the interceptor that admits calls by token and collection. TLS has already checked client
// certificates where those are asked for.
type authorize struct {
	tokens map[[sha256.Size]byte]Token
	// lists are procedures that name no collection and show each caller only its own.
	lists map[string]bool
}

func newAuthorize(tokens []Token, lists []string) *authorize {
	a := &authorize{tokens: map[[sha256.Size]byte]Token{}, lists: map[string]bool{}}
	for _, t := range tokens {
		a.tokens[t.Hash] = t // looked up by hash: timing tells nothing of use about the secret
	}
	for _, l := range lists {
		a.lists[l] = true
	}
	return a
}

// identify returns the caller that the header's token stands for.
func (a *authorize) identify(h http.Header) (Caller, error) {
	value := h.Get("Authorization")
	if value == "" {
		return Caller{}, clara.Errorf(clara.Unauthenticated, "no token given: send the header Authorization: Bearer TOKEN")
	}
	scheme, secret, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return Caller{}, clara.Errorf(clara.Unauthenticated, "the Authorization header must be: Bearer TOKEN")
	}
	t, ok := a.tokens[sha256.Sum256([]byte(strings.TrimSpace(secret)))]
	if !ok {
		return Caller{}, clara.Errorf(clara.Unauthenticated, "unknown token")
	}
	return Caller{Name: t.Name, Collections: t.Collections}, nil
}

// admit checks one request against the caller's collections.
func (a *authorize) admit(c Caller, procedure string, request any) error {
	if c.May("") {
		return nil
	}
	msg, ok := request.(proto.Message)
	if !ok {
		return clara.Errorf(clara.Denied, "this token is limited to collections %s", strings.Join(c.Collections, ", "))
	}
	named := collectionsOf(msg.ProtoReflect(), nil)
	if len(named) == 0 && !a.lists[procedure] {
		return clara.Errorf(clara.Denied, "%s names no collection, and this token is limited to %s", procedure, strings.Join(c.Collections, ", "))
	}
	for _, n := range named {
		if !c.May(n) {
			return clara.Errorf(clara.Denied, "this token is not good for collection %q", n)
		}
	}
	return nil
}

// collectionsOf finds the collections that a message names: a field collection or collections, and
// resource names collections/ID/.. in name, names, parent and target, in the message and those in it.
func collectionsOf(m protoreflect.Message, found []string) []string {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
		case f.Kind() == protoreflect.StringKind && f.IsList():
			for i := range v.List().Len() {
				found = appendCollection(found, f.Name(), v.List().Get(i).String())
			}
		case f.Kind() == protoreflect.StringKind:
			found = appendCollection(found, f.Name(), v.String())
		case f.Kind() == protoreflect.MessageKind && f.IsList():
			for i := range v.List().Len() {
				found = collectionsOf(v.List().Get(i).Message(), found)
			}
		case f.Kind() == protoreflect.MessageKind:
			found = collectionsOf(v.Message(), found)
		}
		return true
	})
	return found
}

func appendCollection(found []string, field protoreflect.Name, value string) []string {
	rest, isName := strings.CutPrefix(value, "collections/")
	id, _, _ := strings.Cut(rest, "/")
	switch field {
	case "collection", "collections":
		return append(found, id)
	case "name", "names", "parent", "target":
		if isName {
			return append(found, id)
		}
	}
	return found
}

// WrapUnary checks a unary call before its handler sees it.
func (a *authorize) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		c, err := a.identify(req.Header())
		if err == nil {
			err = a.admit(c, req.Spec().Procedure, req.Any())
		}
		if err != nil {
			return nil, err
		}
		return next(context.WithValue(ctx, callerKey{}, c), req)
	}
}

// WrapStreamingClient leaves clients alone.
func (a *authorize) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler checks the first message of a stream, and every later one that names a collection.
func (a *authorize) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		c, err := a.identify(conn.RequestHeader())
		if err != nil {
			return err
		}
		return next(context.WithValue(ctx, callerKey{}, c), &admittedStream{StreamingHandlerConn: conn, auth: a, caller: c})
	}
}

type admittedStream struct {
	connect.StreamingHandlerConn
	auth   *authorize
	caller Caller
	later  bool
}

func (s *admittedStream) Receive(msg any) error {
	if err := s.StreamingHandlerConn.Receive(msg); err != nil {
		return err
	}
	if s.later {
		if m, ok := msg.(proto.Message); ok && len(collectionsOf(m.ProtoReflect(), nil)) == 0 {
			return nil
		}
	}
	s.later = true
	return s.auth.admit(s.caller, s.Spec().Procedure, msg)
}
