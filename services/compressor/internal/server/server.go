// Package server is the RPC side of the compressor: it checks requests, has texts
// compressed, and keeps the index clean on request.
package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/services/compressor/internal/indexer"
)

// Server implements clara.compressor.v1.CompressorService. Safe for concurrent use.
type Server struct {
	Log     *slog.Logger
	Models  models.Models
	Index   *index.Client
	Indexer *indexer.Indexer
}

// Compress makes one memory of each text, in order. Texts that wait for a caller go before those that are indexed.
func (s *Server) Compress(ctx context.Context, r *compressorv1.CompressRequest) (*compressorv1.CompressResponse, error) {
	lease, err := s.Models.Acquire(ctx, r.Model)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	return s.compress(ctx, lease, r)
}

func (s *Server) compress(ctx context.Context, lease models.Lease, r *compressorv1.CompressRequest) (*compressorv1.CompressResponse, error) {
	begin := time.Now()
	role := infer.Encoder
	if r.Query {
		role = infer.Reasoner
	}
	if !lease.HasRole(role) {
		return nil, clara.Errorf(clara.State, "model %s has no %s adapter: it can't compress; import it with a CLaRa checkpoint (clara models import --checkpoint)", lease.Name, role)
	}
	out := &compressorv1.CompressResponse{Model: lease.Name}
	m := lease.Manifest()
	ids := make([][]int32, len(r.Texts))
	for i, text := range r.Texts {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ids[i] = lease.Prompts().Encoder(text, m.DocMaxLength)
		// Only a text that fills the model can have been cut.
		if len(ids[i]) == m.DocMaxLength+3+m.M && lease.Prompts().EncoderPositions(text) > m.DocMaxLength {
			out.Truncated++
		}
		out.Tokens += int64(len(ids[i]))
	}
	first := true
	for _, part := range parts(ids, lease.Options().QueueTokens/4) {
		encoded, err := lease.Encode(ctx, infer.Texts{Role: role, IDs: part, Urgent: true, MSE: r.Distance})
		for !first && models.Wait(ctx, err) { // a call that was begun is ended, and waits its turn
			encoded, err = lease.Encode(ctx, infer.Texts{Role: role, IDs: part, Urgent: true, MSE: r.Distance})
		}
		if err != nil {
			return nil, err
		}
		first = false
		for _, memory := range encoded.Memories {
			out.Memories = append(out.Memories, models.ToProto(memory))
		}
		out.Distances = append(out.Distances, encoded.MSE...)
	}
	out.Seconds = time.Since(begin).Seconds()
	return out, nil
}

// parts cuts a list of inputs where it exceeds a number of tokens, so that one call does not fill the queue.
func parts(ids [][]int32, tokens int) [][][]int32 {
	var out [][][]int32
	from, sum := 0, 0
	for i, x := range ids {
		if sum += len(x); sum > tokens && i > from {
			out, from, sum = append(out, ids[from:i]), i, len(x)
		}
	}
	if from < len(ids) {
		out = append(out, ids[from:])
	}
	return out
}

// CompressStream answers batch after batch. The model stays the same one through the stream where none is named.
func (s *Server) CompressStream(ctx context.Context, stream *connect.BidiStream[compressorv1.CompressRequest, compressorv1.CompressResponse]) error {
	leases := map[string]models.Lease{}
	defer func() {
		for _, l := range leases {
			l.Release()
		}
	}()
	for {
		r, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		lease, ok := leases[r.Model]
		if !ok {
			if lease, err = s.Models.Acquire(ctx, r.Model); err != nil {
				return err
			}
			leases[r.Model] = lease
		}
		reply, err := s.compress(ctx, lease, r)
		if err != nil {
			return err
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

// DeletePoints removes points from the indexes named, or drops the indexes of a whole collection.
func (s *Server) DeletePoints(ctx context.Context, r *compressorv1.DeletePointsRequest) (*compressorv1.DeletePointsResponse, error) {
	if r.Collection == "" {
		return nil, clara.Errorf(clara.Invalid, "delete points: no collection named")
	}
	if r.BeforeRevision < 0 {
		return nil, clara.Errorf(clara.Invalid, "delete points: before_revision %d is negative", r.BeforeRevision)
	}
	out := &compressorv1.DeletePointsResponse{}
	if r.Document == "" {
		return out, s.Indexer.DropCollection(ctx, r.Collection, r.Indexes)
	}
	return out, s.Indexer.DeleteDocument(ctx, r.Collection, r.Document, r.BeforeRevision, r.Indexes)
}

// DropIndex removes a physical index.
func (s *Server) DropIndex(ctx context.Context, r *compressorv1.DropIndexRequest) (*compressorv1.DropIndexResponse, error) {
	if !strings.Contains(r.Index, ".") {
		return nil, clara.Errorf(clara.Invalid, "drop index %q: want the name of a physical index, COLLECTION.HASH", r.Index)
	}
	return &compressorv1.DropIndexResponse{}, s.Indexer.Drop(ctx, r.Index)
}

// SweepIndex compares points with documents.
func (s *Server) SweepIndex(ctx context.Context, r *compressorv1.SweepIndexRequest) (*compressorv1.SweepIndexResponse, error) {
	if r.Collection == "" || r.Index == "" {
		return nil, clara.Errorf(clara.Invalid, "sweep index: name a collection and an index")
	}
	return s.Indexer.Sweep(ctx, r)
}
