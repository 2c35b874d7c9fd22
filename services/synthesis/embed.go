package synthesis

import (
	"context"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/synthesis/internal/endpoint"
	"github.com/clara-suite/clara/services/synthesis/internal/minilm"
)

// embedder makes embeddings: at an endpoint, or in this process.
type embedder struct {
	name  string
	embed func(ctx context.Context, texts []string) ([][]float32, error)
	close func()
}

// newEmbedder takes the endpoint's embedding model if one is named, else MiniLM.
func (m *Models) newEmbedder(u Use) (embedder, error) {
	e, err := m.set.For(endpoint.Embeddings, u.Endpoint)
	if err != nil && (u.Endpoint != "" || clara.KindOf(err) != clara.State) {
		return embedder{}, err
	}
	model := u.EmbeddingModel
	if model == "" {
		model = e.EmbeddingModel
	}
	if model != "" && e.Embedder != nil {
		return embedder{model, func(ctx context.Context, texts []string) ([][]float32, error) {
			return e.Embedder.Embed(ctx, model, texts, u.Meter)
		}, func() {}}, nil
	}
	own, err := minilm.Open(u.MiniLM)
	if err != nil {
		return embedder{}, err
	}
	return embedder{minilm.Name, own.Embed, own.Close}, nil
}
