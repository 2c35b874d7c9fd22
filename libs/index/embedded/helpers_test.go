package embedded_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/qdrant/go-client/qdrant"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/index/embedded"
)

// safeBuilder is a strings.Builder that a logger and a test may use at once.
type safeBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuilder) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// unimplementedCalls asks for what the server does not do.
func unimplementedCalls(t *testing.T, s *embedded.Server) {
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.Dial(ctx) }))
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close()) }()
	ctx := t.Context()
	cols, pts := qdrant.NewCollectionsClient(conn), qdrant.NewPointsClient(conn)
	create := func(p *qdrant.VectorParams) error {
		_, err := cols.Create(ctx, &qdrant.CreateCollection{CollectionName: "x", VectorsConfig: qdrant.NewVectorsConfigMap(map[string]*qdrant.VectorParams{"v": p})})
		return err
	}
	half := qdrant.Datatype_Float16.Enum()
	require.NoError(t, create(&qdrant.VectorParams{Size: 4, Distance: qdrant.Distance_Dot, Datatype: half}))
	_, recommendErr := pts.Recommend(ctx, &qdrant.RecommendPoints{})
	_, snapshotErr := qdrant.NewSnapshotsClient(conn).Create(ctx, &qdrant.CreateSnapshotRequest{})
	_, prefetchErr := pts.Query(ctx, &qdrant.QueryPoints{CollectionName: "x", Prefetch: []*qdrant.PrefetchQuery{{}}})
	_, fusionErr := pts.Query(ctx, &qdrant.QueryPoints{CollectionName: "x", Query: qdrant.NewQueryFusion(qdrant.Fusion_RRF)})
	_, filterErr := pts.Count(ctx, &qdrant.CountPoints{CollectionName: "x", Filter: &qdrant.Filter{Must: []*qdrant.Condition{qdrant.NewMatchText("a", "b")}}})
	for _, c := range []struct {
		name string
		err  error
		code codes.Code
	}{
		{"unknown call", recommendErr, codes.Unimplemented},
		{"unknown service", snapshotErr, codes.Unimplemented},
		{"cosine", create(&qdrant.VectorParams{Size: 4, Distance: qdrant.Distance_Cosine, Datatype: half}), codes.Unimplemented},
		{"single precision", create(&qdrant.VectorParams{Size: 4, Distance: qdrant.Distance_Dot}), codes.Unimplemented},
		{"bytes with dot", create(&qdrant.VectorParams{Size: 4, Distance: qdrant.Distance_Dot, Datatype: qdrant.Datatype_Uint8.Enum()}), codes.Unimplemented},
		{"too many dims", create(&qdrant.VectorParams{Size: 65537, Distance: qdrant.Distance_Dot, Datatype: half}), codes.InvalidArgument},
		{"exists", create(&qdrant.VectorParams{Size: 4, Distance: qdrant.Distance_Dot, Datatype: half}), codes.AlreadyExists},
		{"prefetch", prefetchErr, codes.Unimplemented},
		{"fusion", fusionErr, codes.Unimplemented},
		{"text match", filterErr, codes.Unimplemented},
	} {
		assert.Equal(t, c.code, status.Code(c.err), "%s: %v", c.name, c.err)
	}
	assert.ErrorContains(t, snapshotErr, "use a Qdrant server")
	assert.ErrorContains(t, recommendErr, "use a Qdrant server")
}
