package embedded

import (
	"context"

	"github.com/qdrant/go-client/qdrant"
)

// collections answers the RPCs on collections and aliases.
type collections struct {
	qdrant.UnimplementedCollectionsServer
	store *store
}

// Get describes a collection, by its name or an alias.
func (s *collections) Get(_ context.Context, r *qdrant.GetCollectionInfoRequest) (*qdrant.GetCollectionInfoResponse, error) {
	c, err := s.store.collection(r.GetCollectionName())
	if err != nil {
		return nil, err
	}
	info := &qdrant.CollectionInfo{
		Status:          qdrant.CollectionStatus_Green,
		OptimizerStatus: &qdrant.OptimizerStatus{Ok: true},
		SegmentsCount:   1,
		Config: &qdrant.CollectionConfig{
			Params: &qdrant.CollectionParams{
				ShardNumber:         1,
				OnDiskPayload:       true,
				VectorsConfig:       c.request.GetVectorsConfig(),
				SparseVectorsConfig: c.request.GetSparseVectorsConfig(),
			},
			Metadata: c.request.GetMetadata(),
		},
		PayloadSchema: map[string]*qdrant.PayloadSchemaInfo{},
	}
	err = c.read(func(now *state) error {
		info.PointsCount = qdrant.PtrOf(uint64(len(now.slots)))
		info.IndexedVectorsCount = info.PointsCount
		for field, kind := range c.fields {
			schema := qdrant.PayloadSchemaType_Keyword
			if kind == qdrant.FieldType_FieldTypeInteger {
				schema = qdrant.PayloadSchemaType_Integer
			}
			info.PayloadSchema[field] = &qdrant.PayloadSchemaInfo{DataType: schema, Points: info.PointsCount}
		}
		return nil
	})
	return &qdrant.GetCollectionInfoResponse{Result: info}, err
}

// List names all collections.
func (s *collections) List(context.Context, *qdrant.ListCollectionsRequest) (*qdrant.ListCollectionsResponse, error) {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	out := &qdrant.ListCollectionsResponse{}
	for name := range s.store.open {
		out.Collections = append(out.Collections, &qdrant.CollectionDescription{Name: name})
	}
	return out, nil
}

// Create makes a collection.
func (s *collections) Create(_ context.Context, r *qdrant.CreateCollection) (*qdrant.CollectionOperationResponse, error) {
	return &qdrant.CollectionOperationResponse{Result: true}, s.store.create(r)
}

// Delete drops a collection and the aliases to it; false if there was none.
func (s *collections) Delete(_ context.Context, r *qdrant.DeleteCollection) (*qdrant.CollectionOperationResponse, error) {
	done, err := s.store.drop(r.GetCollectionName())
	return &qdrant.CollectionOperationResponse{Result: done}, err
}

// UpdateAliases changes aliases in one step.
func (s *collections) UpdateAliases(_ context.Context, r *qdrant.ChangeAliases) (*qdrant.CollectionOperationResponse, error) {
	return &qdrant.CollectionOperationResponse{Result: true}, s.store.alias(r.GetActions())
}

// ListAliases names all aliases.
func (s *collections) ListAliases(context.Context, *qdrant.ListAliasesRequest) (*qdrant.ListAliasesResponse, error) {
	return s.aliases(func(string) bool { return true }), nil
}

// ListCollectionAliases names the aliases of one collection.
func (s *collections) ListCollectionAliases(_ context.Context, r *qdrant.ListCollectionAliasesRequest) (*qdrant.ListAliasesResponse, error) {
	return s.aliases(func(target string) bool { return target == r.GetCollectionName() }), nil
}

func (s *collections) aliases(want func(target string) bool) *qdrant.ListAliasesResponse {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	out := &qdrant.ListAliasesResponse{}
	for alias, target := range s.store.m.Aliases {
		if want(target) {
			out.Aliases = append(out.Aliases, &qdrant.AliasDescription{AliasName: alias, CollectionName: target})
		}
	}
	return out
}

// CollectionExists says whether a collection or alias has the name.
func (s *collections) CollectionExists(_ context.Context, r *qdrant.CollectionExistsRequest) (*qdrant.CollectionExistsResponse, error) {
	_, err := s.store.collection(r.GetCollectionName())
	return &qdrant.CollectionExistsResponse{Result: &qdrant.CollectionExists{Exists: err == nil}}, nil
}
