package synthesis

import (
	"context"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events/job"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
	"github.com/clara-suite/clara/services/synthesis/internal/server"
)

// dataset builds the data set of a job.
func (s *Service) dataset(run *job.Run) error {
	name, recipe, err := server.ParseSpec(run.Job())
	if err != nil {
		return err
	}
	if _, err := s.records.Get(run.Context(), name); err != nil {
		return err
	}
	_, err = s.endpoints.Get(recipe.GetEndpoint())
	return err
}

// models is the server's view of the endpoints.
type models struct{ s *Service }

func (m models) Endpoints() []*synthesisv1.ListEndpointsResponse_Endpoint {
	var out []*synthesisv1.ListEndpointsResponse_Endpoint
	for _, e := range m.s.endpoints.List() {
		out = append(out, &synthesisv1.ListEndpointsResponse_Endpoint{Name: e.Name, BaseUrl: e.URL, Model: e.Model, VisionModel: e.VisionModel, EmbeddingModel: e.EmbeddingModel})
	}
	return out
}

func (m models) CheckRecipe(r *synthesisv1.Recipe) error {
	_, err := m.s.endpoints.Get(r.GetEndpoint())
	return err
}

func (m models) Describe(context.Context, *synthesisv1.DescribeImagesRequest) ([]*synthesisv1.DescribeImagesResponse_Description, error) {
	return nil, clara.Errorf(clara.Unsupported, "no vision model is configured")
}

func (m models) Synthesize(context.Context, *synthesisv1.SynthesizeRequest) ([]*synthesisv1.SynthesizeResponse_Result, error) {
	return nil, clara.Errorf(clara.Unsupported, "no model is configured")
}
