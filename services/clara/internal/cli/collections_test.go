package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	domain "github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/models"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
	"github.com/clara-suite/clara/proto/gen/clara/generator/v1/generatorv1connect"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	"github.com/clara-suite/clara/services/clara/internal/cli"
)

const compareM, compareH = 4, 48

// kept is a collection of two documents, one of which was deleted after it was listed.
type kept struct {
	ingestv1connect.UnimplementedIngestServiceHandler
	memory bool
}

func (k kept) GetCollection(_ context.Context, r *ingestv1.GetCollectionRequest) (*ingestv1.Collection, error) {
	return &ingestv1.Collection{Name: r.Name, Memory: k.memory, Model: "models/tiny", MemoryPrecision: ingestv1.MemoryPrecision_MEMORY_PRECISION_INT8}, nil
}

func (kept) ListDocuments(_ context.Context, r *ingestv1.ListDocumentsRequest) (*ingestv1.ListDocumentsResponse, error) {
	if r.PageToken == "" {
		return &ingestv1.ListDocumentsResponse{Documents: []*ingestv1.Document{
			{Name: r.Parent + "/documents/a", State: ingestv1.Document_STATE_READY}, {Name: r.Parent + "/documents/b", State: ingestv1.Document_STATE_FAILED},
		}, NextPageToken: "more"}, nil
	}
	return &ingestv1.ListDocumentsResponse{Documents: []*ingestv1.Document{{Name: r.Parent + "/documents/gone", State: ingestv1.Document_STATE_READY}}}, nil
}

func (kept) ListPassages(_ context.Context, r *ingestv1.ListPassagesRequest) (*ingestv1.ListPassagesResponse, error) {
	if !strings.HasSuffix(r.Parent, "/a") {
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("%s is deleted", r.Parent))
	}
	out := &ingestv1.ListPassagesResponse{}
	for i := range 40 {
		out.Passages = append(out.Passages, &ingestv1.Passage{Text: fmt.Sprintf("This is passage %d of the document. It has a second sentence.", i)})
	}
	return out, nil
}

// memories makes a memory of a text's first sentence, the same for query and passage.
type memories struct {
	compressorv1connect.UnimplementedCompressorServiceHandler
}

func (memories) Compress(_ context.Context, r *compressorv1.CompressRequest) (*compressorv1.CompressResponse, error) {
	out := &compressorv1.CompressResponse{}
	for _, text := range r.Texts {
		first, _, _ := strings.Cut(text, ".")
		h := fnv.New64()
		h.Write([]byte(first))
		rng := rand.New(rand.NewPCG(h.Sum64(), 1))
		m := domain.Memory{M: compareM, H: compareH, Data: make([]float32, compareM*compareH)}
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64())
		}
		out.Memories = append(out.Memories, models.ToProto(m))
	}
	return out, nil
}

// reads answers with what it was given, to one digit: a coarser memory changes some answers.
type reads struct {
	generatorv1connect.UnimplementedGeneratorServiceHandler
}

func (reads) Generate(_ context.Context, r *generatorv1.GenerateRequest) (*generatorv1.GenerateResponse, error) {
	m, err := models.FromProto(r.Items[0].Memories[0])
	if err != nil {
		return nil, err
	}
	return &generatorv1.GenerateResponse{Outputs: []*generatorv1.Output{{Text: fmt.Sprintf("%d memories, %.1f", len(r.Items[0].Memories), m.Data[:12])}}}, nil
}

// TestCollectionsCompare runs the command against services whose memories are known: what each precision costs comes out,
// in the form for people and in that for programs.
func TestCollectionsCompare(t *testing.T) {
	serve := func(memory bool) *cli.Env {
		mux := http.NewServeMux()
		mux.Handle(ingestv1connect.NewIngestServiceHandler(kept{memory: memory}))
		mux.Handle(compressorv1connect.NewCompressorServiceHandler(memories{}))
		mux.Handle(generatorv1connect.NewGeneratorServiceHandler(reads{}))
		server := httptest.NewUnstartedServer(mux)
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		t.Cleanup(server.Close)
		env := &cli.Env{}
		env.Addr = server.URL
		return env
	}
	command := cli.CollectionsCompare{Collection: "handbook", Passages: 25, Count: 6, TopK: 3, MaxTokens: 8}

	t.Run("figures", func(t *testing.T) {
		var out, errs strings.Builder
		env := serve(true)
		env.Out, env.Err, env.JSON = &out, &errs, true
		require.NoError(t, command.Run(t.Context(), env))
		assert.Contains(t, errs.String(), "comparing by 25 passages and 6 questions")
		var got struct {
			Passages, Questions int
			TopK                int `json:"top_k"`
			Precisions          []struct {
				Precision    string
				InUse        bool    `json:"in_use"`
				Bytes        int     `json:"bytes_per_passage"`
				CosineMean   float64 `json:"cosine_mean"`
				CosineMin    float64 `json:"cosine_min"`
				SlotMin      float64 `json:"slot_cosine_min"`
				Recall       float64
				Same         float64 `json:"same_answers"`
				SameBeginnng float64 `json:"same_beginning"`
			}
		}
		require.NoError(t, json.Unmarshal([]byte(out.String()), &got))
		assert.Equal(t, [3]int{25, 6, 3}, [3]int{got.Passages, got.Questions, got.TopK})
		require.Len(t, got.Precisions, 3)
		least := map[string]float64{"fp16": 0.9999999, "int8": 0.9995, "int4": 0.98}
		bytes := compareM * compareH * 4
		for i, p := range got.Precisions {
			assert.Equal(t, []string{"fp16", "int8", "int4"}[i], p.Precision)
			assert.Equal(t, p.Precision == "int8", p.InUse)
			assert.Less(t, p.Bytes, bytes, "fewer bytes than the one before")
			bytes = p.Bytes
			assert.Greater(t, p.CosineMin, least[p.Precision])
			assert.GreaterOrEqual(t, p.CosineMean, p.CosineMin)
			assert.GreaterOrEqual(t, p.CosineMin, p.SlotMin-1e-9, "a whole memory is no worse than its worst slot")
			assert.LessOrEqual(t, p.Same, p.SameBeginnng)
		}
		assert.InDelta(t, compareM*compareH*2, got.Precisions[0].Bytes, 16, "two bytes a number, and what a slot needs")
		assert.InDelta(t, 1, got.Precisions[0].Recall, 0, "half precision finds what float32 finds")
		assert.Greater(t, got.Precisions[2].Recall, 0.6)
		assert.Greater(t, got.Precisions[0].SameBeginnng, got.Precisions[2].SameBeginnng)
	})
	t.Run("table", func(t *testing.T) {
		var out, errs strings.Builder
		env := serve(true)
		env.Out, env.Err = &out, &errs
		plain := command
		plain.Question, plain.MaxTokens = []string{"This is passage 7 of the document."}, 0
		require.NoError(t, plain.Run(t.Context(), env))
		lines := strings.Split(out.String(), "\n")
		assert.Regexp(t, `^MEMORIES +BYTES A PASSAGE +COSINE MEAN +MIN +MIN OF A SLOT +RECALL@3 +SAME ANSWERS +SAME BEGINNING$`, lines[0])
		assert.Regexp(t, `^int8 \(in use\) +\d+ +0\.999\d+ .* - +-$`, lines[2])
		assert.Contains(t, out.String(), "over 25 passages and 1 questions (given), greedy, models/tiny")
		assert.Contains(t, out.String(), "clara collections move handbook --memories PRECISION")
	})
	t.Run("no memories", func(t *testing.T) {
		env := serve(false)
		err := command.Run(t.Context(), env)
		assert.Equal(t, domain.State, domain.KindOf(err))
		assert.ErrorContains(t, err, "its model has no adapters")
	})
	t.Run("wrong use", func(t *testing.T) {
		bad := command
		bad.TopK = 0
		assert.Equal(t, domain.Invalid, domain.KindOf(bad.Run(t.Context(), &cli.Env{})))
	})
}
